package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"banger/internal/pattern"
)

// valueType is a type of a TOML value, as errors name it.
type valueType string

const (
	stringValue  valueType = "a string"
	integerValue valueType = "a number"
	booleanValue valueType = "true or false"
	arrayValue   valueType = "an array"
	tableValue   valueType = "a table"
	otherValue   valueType = "a date or fraction"
)

// setting is one value of the file.
type setting struct {
	name string // dotted; elements of arrays as name[0]
	kind valueType
	text string // of a string, number or boolean
	line int
}

// file loads the settings of a configuration file.
func (l *loader) file(path string, data []byte, home string) {
	settings, err := flatten(data)
	if err != nil {
		var d *toml.DecodeError
		if errors.As(err, &d) {
			line, column := d.Position()
			l.bad("%s:%d:%d: %s", path, line, column, strings.TrimPrefix(d.Error(), "toml: "))
			return
		}
		l.bad("%s: %s", path, strings.TrimPrefix(err.Error(), "toml: "))
		return
	}
	sync := syncReader{loader: l, path: path, home: home}
	for _, s := range settings {
		where := fmt.Sprintf("%s:%d", path, s.line)
		if sync.take(s) {
			continue
		}
		if s.kind == tableValue && isTable(s.name) {
			continue
		}
		k, ok := keyNamed(s.name)
		switch {
		case !ok && isTable(s.name):
			l.bad("%s: %s: must be a table, not %s", where, s.name, s.kind)
			continue
		case !ok:
			l.bad("%s: %s", where, unknown(s.name))
			continue
		}
		if err := k.accepts(s.kind); err != nil {
			l.bad("%s: %s: %w", where, k.name, err)
			continue
		}
		l.set(k, s.text, "file "+where, where)
	}
	sync.finish()
}

// isTable reports whether there are keys below name.
func isTable(name string) bool {
	return slices.ContainsFunc(keys, func(k key) bool { return strings.HasPrefix(k.name, name+".") })
}

// flatten lists the file's values in order. It takes them from the syntax tree, because the
// library's decoder stops at the first wrong type and reports no lines of right values. The decoder
// only checks whether the document is valid.
func flatten(data []byte) (settings []setting, err error) {
	if err := toml.Unmarshal(data, &map[string]any{}); err != nil {
		return nil, err
	}
	f := flattener{seen: map[string]int{}}
	f.p.Reset(data)
	prefix := ""
	for f.p.NextExpression() {
		e := f.p.Expression()
		switch e.Kind {
		case unstable.Table:
			name, line := f.key(e, "")
			prefix = f.latest(name)
			f.add(setting{name: prefix, kind: tableValue, line: line})
		case unstable.ArrayTable:
			name, line := f.key(e, "")
			name = f.latest(name)
			prefix = fmt.Sprintf("%s[%d]", name, f.seen[name])
			f.seen[name]++
			f.add(setting{name: prefix, kind: tableValue, line: line})
		case unstable.KeyValue:
			f.pair(e, prefix)
		}
	}
	return f.settings, f.p.Error()
}

type flattener struct {
	p        unstable.Parser
	seen     map[string]int // elements of each [[array]] so far
	settings []setting
}

func (f *flattener) add(s setting) { f.settings = append(f.settings, s) }

var bare = pattern.Lazy(`^[A-Za-z0-9_-]+$`)

// key returns the dotted key of a table or pair below prefix, and its line. Names that need quotes
// keep them, so that no name looks like another key.
func (f *flattener) key(n *unstable.Node, prefix string) (name string, line int) {
	var parts []string
	if prefix != "" {
		parts = append(parts, prefix)
	}
	for it := n.Key(); it.Next(); {
		node := it.Node()
		part := string(node.Data)
		if !bare().MatchString(part) {
			part = strconv.Quote(part)
		}
		parts = append(parts, part)
		if line == 0 {
			line = f.p.Shape(node.Raw).Start.Line
		}
	}
	return strings.Join(parts, "."), line
}

// latest names a key below an [[array]] as a key of the array's last element, as TOML defines.
func (f *flattener) latest(name string) string {
	for arrayName, n := range f.seen {
		if rest, ok := strings.CutPrefix(name, arrayName+"."); ok {
			return fmt.Sprintf("%s[%d].%s", arrayName, n-1, rest)
		}
	}
	return name
}

func (f *flattener) pair(n *unstable.Node, prefix string) {
	name, line := f.key(n, prefix)
	f.value(n.Value(), name, line)
}

func (f *flattener) value(v *unstable.Node, name string, line int) {
	s := setting{name: name, line: line, text: string(v.Data)}
	switch v.Kind {
	case unstable.String:
		s.kind = stringValue
	case unstable.Bool:
		s.kind = booleanValue
	case unstable.Integer:
		// This cannot fail: toml.Unmarshal has accepted the number.
		n, _ := strconv.ParseInt(strings.TrimPrefix(decimal(s.text), "+"), 0, 64)
		s.kind, s.text = integerValue, strconv.FormatInt(n, 10)
	case unstable.InlineTable:
		s.kind = tableValue
		f.add(s)
		for it := v.Children(); it.Next(); {
			f.pair(it.Node(), name)
		}
		return
	case unstable.Array:
		s.kind = arrayValue
		f.add(s)
		if name != syncKey { // no other array is a setting
			return
		}
		for i, it := 0, v.Children(); it.Next(); i++ {
			f.value(it.Node(), fmt.Sprintf("%s[%d]", name, i), line)
		}
		return
	default:
		s.kind = otherValue
	}
	f.add(s)
}

// decimal removes TOML's underscores from a number. Prefixes for other bases are the same in Go.
func decimal(s string) string { return strings.ReplaceAll(s, "_", "") }

// unknown returns the message for an unknown key, with the nearest key.
func unknown(name string) string {
	best, distance := "", 3
	for _, k := range append([]string{syncKey}, names()...) {
		if d := editDistance(name, k); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return fmt.Sprintf("unknown key %.100s", name)
	}
	return fmt.Sprintf("unknown key %.100s; did you mean %s?", name, best)
}

func names() []string {
	var all []string
	for _, k := range keys {
		all = append(all, k.name)
	}
	return all
}

// editDistance returns the Levenshtein distance of short words. A word longer than all keys is far
// from them.
func editDistance(a, b string) int {
	if len(a) > 40 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
