package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// HomeKey is the key of the home's id: see internal/home.
const HomeKey = "home"

// Meta returns the value of a key that belongs to the whole home, or "" if it has none.
func (s *Store) Meta(ctx context.Context, key string) (string, error) {
	var value string
	err := s.db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = ?", key).Scan(&value)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("reading %s of the home: %w", key, err)
	}
	return value, nil
}

// SetMeta sets the value of a key.
func (s *Store) SetMeta(ctx context.Context, key, value string) error {
	err := s.write(ctx, `INSERT INTO meta (key, value) VALUES (?, ?)
		ON CONFLICT (key) DO UPDATE SET value = excluded.value`, key, value)
	if err != nil {
		return fmt.Errorf("storing %s of the home: %w", key, s.noSpace(err))
	}
	return nil
}
