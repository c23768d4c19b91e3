package snapshot

import "fmt"

// vouch records that all files are right now.
func (d directory) vouch(meta Meta) error {
	data, err := encodeMeta(meta)
	if err != nil {
		return err
	}
	if err := d.replaceMeta(data); err != nil {
		return fmt.Errorf("noting that %s is right: %w", d.Name(), err)
	}
	return nil
}
