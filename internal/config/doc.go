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

banger needs no configuration. A setting can come from three places. Flags win over the environment, and the environment wins over the file
` + "`config.toml`" + `. ` + "`banger config show`" + ` prints the effective values and where each value comes from.

The place of the file depends on the environment:

- If ` + "`BANGER_HOME`" + ` is set: ` + "`$BANGER_HOME/config/config.toml`" + `.
- Otherwise, for root: ` + "`/etc/banger/config.toml`" + `.
- Otherwise: ` + "`$XDG_CONFIG_HOME/banger/config.toml`" + `, which is ` + "`~/.config/banger/config.toml`" + ` by default.

Settings take effect at two different moments:

- The settings from ` + "`image`" + ` to ` + "`net`" + ` are about new VMs. Each command that creates a VM reads them.
- The daemon reads all other settings when it starts. After a change, run ` + "`banger daemon restart`" + `. VMs keep running meanwhile.

banger refuses a file with an unknown key or an invalid value. It reports all errors at once, each with its line, and does nothing else.

A size is a number with K, M, G or T (powers of 1024), such as ` + "`512M`" + `. A duration has a unit, such as ` + "`90s`" + ` or ` + "`2m`" + `.

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
	b.WriteString("\n## Files for every VM\n\n" + syncDoc + " Each `[[file_sync]]` table is one of them:\n\n| Key | Meaning |\n| --- | --- |\n")
	for _, f := range syncFields {
		fmt.Fprintf(&b, "| `%s` | %s |\n", f.name, f.doc)
	}
	b.WriteString("\n## Example\n\nThis file sets every key to its default:\n\n```toml\n" + Example() + "```\n")
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
