package model

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is a size in bytes. Its text has a binary suffix ("512M", "1.5G"); its JSON is a number.
type Bytes int64

// The binary units.
const (
	KiB Bytes = 1 << 10
	MiB Bytes = 1 << 20
	GiB Bytes = 1 << 30
	TiB Bytes = 1 << 40
)

var suffixes = map[string]Bytes{"": 1, "b": 1, "k": KiB, "m": MiB, "g": GiB, "t": TiB}

// ParseBytes reads a size such as "512M", "8G", "1.5GiB" or "1048576". Suffixes are binary, in
// either case, with an optional "B" or "iB". A fraction of a byte is dropped. Signs are rejected.
func ParseBytes(s string) (Bytes, error) {
	text := strings.ToLower(strings.TrimSpace(s))
	cut := strings.LastIndexAny(text, "0123456789.") + 1
	number, suffix := text[:cut], strings.TrimSpace(text[cut:])
	if len(suffix) > 1 && suffix != "ib" {
		suffix = strings.TrimSuffix(strings.TrimSuffix(suffix, "b"), "i")
	}
	unit, ok := suffixes[suffix]
	if !ok || number == "" || strings.ContainsAny(number, "+-ex_") {
		return 0, badSize(s)
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		if n > math.MaxInt64/int64(unit) {
			return 0, hugeSize(s)
		}
		return Bytes(n) * unit, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, badSize(s)
	}
	if f *= float64(unit); f >= math.MaxInt64 {
		return 0, hugeSize(s)
	}
	return Bytes(f), nil
}

func hugeSize(s string) error {
	return fmt.Errorf("size %q is too large: a disk has at most 16T, a VM's memory at most 1T", s)
}

func badSize(s string) error {
	return fmt.Errorf("size %q is not a number with an optional K, M, G or T, such as 512M or 8G", s)
}

// String returns the shortest form with at most one decimal place: "512M", "8G", "1.5G".
func (b Bytes) String() string {
	for _, u := range []struct {
		unit Bytes
		name string
	}{{TiB, "T"}, {GiB, "G"}, {MiB, "M"}, {KiB, "K"}} {
		if b >= u.unit {
			if b%u.unit == 0 {
				return strconv.FormatInt(int64(b/u.unit), 10) + u.name
			}
			return strconv.FormatFloat(float64(b)/float64(u.unit), 'f', 1, 64) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// Set and Type make *Bytes a flag value.
func (b *Bytes) Set(s string) error {
	v, err := ParseBytes(s)
	if err == nil {
		*b = v
	}
	return err
}

// Type is the word that a flag's help prints for the value.
func (b *Bytes) Type() string { return "size" }

// UnmarshalText lets configuration files hold sizes as text.
func (b *Bytes) UnmarshalText(text []byte) error { return b.Set(string(text)) }

// UnmarshalJSON reads a number of bytes, or the text form.
func (b *Bytes) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		return b.Set(text)
	}
	var n int64
	if err := json.Unmarshal(data, &n); err != nil {
		return fmt.Errorf("size %.40s is neither a number of bytes nor a text such as \"8G\"", data)
	}
	*b = Bytes(n)
	return nil
}
