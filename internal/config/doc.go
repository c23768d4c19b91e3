package config

import (
	"fmt"
	"strings"
)

//go:generate go test . -run ^TestMarkdown$ -update

const introduction = `# Configuration

<!-- Generated from the table in internal/config. To regenerate it, run ` + "`make docs`" + `. -->

banger needs no configuration. Values come from these sources; a later source overrides an earlier one:

1. the defaults below
2. the file ` + "`config.toml`" + `
3. environment variables
4. flags

` + "`banger config show`" + ` prints the effective values and the source of each.

The file is ` + "`~/.config/banger/config.toml`" + `, or ` + "`/etc/banger/config.toml`" + ` for root. If ` + "`BANGER_HOME`" + ` is set, it is
` + "`config/config.toml`" + ` in that directory.

Each command that makes a VM reads the settings of new VMs, from ` + "`image`" + ` to ` + "`net`" + `, itself. The daemon reads the other
settings when it starts. To apply a change, run ` + "`banger daemon restart`" + `: VMs continue to run.

banger refuses unknown keys and invalid values. It reports all of them at once, each with its line.

Sizes are numbers with K, M, G or T (powers of 1024). Durations have a unit, such as ` + "`90s`" + ` or ` + "`2m`" + `.

| Key | Value | Default | Environment | Meaning |
| --- | --- | --- | --- | --- |
`

// Markdown returns docs/config.md, made from the table of keys.
func Markdown() string {
	var b strings.Builder
	b.WriteString(introduction)
	for _, k := range keys {
		def := "`" + k.def + "`"
		if k.def == "" {
			def = "empty"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | `%s` | %s |\n", k.name, k.kind(), def, k.env(), k.doc)
	}
	b.WriteString("\n## Files for every VM\n\n" + syncDoc + " Write one `[[file_sync]]` for each:\n\n| Key | Meaning |\n| --- | --- |\n")
	for _, f := range syncFields {
		fmt.Fprintf(&b, "| `%s` | %s |\n", f.name, f.doc)
	}
	b.WriteString("\n## Example\n\nThis file sets each key to its default:\n\n```toml\n" + Example() + "```\n")
	return b.String()
}

// Example returns a configuration file that sets each key to its default and copies one file into
// VMs, all in comments.
func Example() string {
	var b strings.Builder
	section := ""
	for _, k := range keys {
		name := k.name
		if table, rest, ok := strings.Cut(name, "."); ok {
			if table != section {
				fmt.Fprintf(&b, "\n# [%s]\n", table)
				section = table
			}
			name = rest
		}
		value := k.def
		if k.accepts(stringValue) == nil {
			value = fmt.Sprintf("%q", k.def)
		}
		fmt.Fprintf(&b, "# %s = %s\n", name, value)
	}
	b.WriteString(`
# [[file_sync]]
# host = "~/.vimrc"
# guest = "~/.vimrc"
# mode = "0644"
# optional = true
`)
	return b.String()
}
