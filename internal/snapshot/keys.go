package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// checkKeys refuses JSON in which an object has a key twice. Programs differ in which of the two
// they believe. Go takes keys that differ in case for the same field, except in maps, whose keys
// are the user's.
func checkKeys(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var open []*object
	for {
		t, err := dec.Token()
		if errors.Is(err, io.EOF) && len(open) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		var in *object // nil in an array, and outside of all
		if len(open) > 0 {
			in = open[len(open)-1]
		}
		switch t {
		case json.Delim('{'):
			begun := &object{seen: map[string]bool{}, inKey: true, isMap: in != nil && isMap(in.key)}
			in.valueEnds()
			open = append(open, begun)
		case json.Delim('['):
			in.valueEnds()
			open = append(open, nil)
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		default:
			if in == nil || !in.inKey {
				in.valueEnds()
				continue
			}
			if err := in.take(t.(string)); err != nil { // the decoder accepts no other key
				return err
			}
		}
	}
}

// object is a JSON object that is being read.
type object struct {
	seen  map[string]bool
	key   string // the last one
	inKey bool   // the next token is a key
	isMap bool
}

// valueEnds notes a value, or its beginning: the decoder reports nothing of this object inside it.
func (o *object) valueEnds() {
	if o != nil {
		o.inKey = true
	}
}

func (o *object) take(key string) error {
	same := key
	if !o.isMap { // encoding/json compares names of fields so
		same = strings.ToLower(strings.ToUpper(key))
	}
	if o.seen[same] {
		return fmt.Errorf("the field %.40q is there twice", key)
	}
	o.seen[same], o.key, o.inKey = true, key, false
	return nil
}

// isMap reports whether the value of a field is a map of the user's.
func isMap(field string) bool { return field == "env" || field == "labels" }
