package config

import (
	"fmt"
	"strings"
)

//go:generate go test . -run ^TestMarkdown$ -update

// Markdown is docs/config.md, made from the table of keys.
func Markdown() string {
	var b strings.Builder
	b.WriteString(`# Configuration

<!-- Made from the table in internal/config. Run ` + "`make docs`" + ` to make it again. -->

banger needs no configuration. What you set in ` + "`config.toml`" + ` holds for every command; the environment wins over the file, and flags
win over both. ` + "`banger config show`" + ` prints what holds and where each value comes from.

The file is ` + "`~/.config/banger/config.toml`" + `, ` + "`/etc/banger/config.toml`" + ` for root, or ` + "`config/config.toml`" + ` below ` + "`BANGER_HOME`" + ` where that is set.
What concerns new VMs, from ` + "`image`" + ` to ` + "`net`" + `, is looked up by each command that makes one; the rest by the daemon when it starts, so
` + "`banger daemon restart`" + ` takes up a change, and VMs go on running meanwhile. Unknown keys and values that cannot be are refused, all at
once and each with its line, before anything is done.

Sizes are a number with K, M, G or T (powers of 1024); durations have a unit, such as ` + "`90s`" + ` or ` + "`2m`" + `.

| Key | Value | Default | Environment | Meaning |
| --- | --- | --- | --- | --- |
`)
	for _, k := range keys {
		def := "`" + k.def + "`"
		if k.def == "" {
			def = "empty"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | `%s` | %s |\n", k.name, k.kind(), def, k.env(), k.doc)
	}
	b.WriteString("\n## Files for every VM\n\n" + syncDoc + " Each `[[file_sync]]` is one of them:\n\n| Key | Meaning |\n| --- | --- |\n")
	for _, f := range syncFields {
		fmt.Fprintf(&b, "| `%s` | %s |\n", f.name, f.doc)
	}
	b.WriteString("\n## Example\n\nWith all defaults spelled out:\n\n```toml\n" + Example() + "```\n")
	return b.String()
}

// Example is a configuration file that sets every key to its default, and one file to put into VMs, all as comments.
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
		if k.accepts(textValue) == nil {
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
