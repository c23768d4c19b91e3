package config

import "strings"

// LoadData is Load of a file's text, with overrides as pairs.
func LoadData(text string, environ func(string) (string, bool), overrides ...string) (*Config, error) {
	m := map[string]string{}
	for i := 0; i < len(overrides); i += 2 {
		m[overrides[i]] = overrides[i+1]
	}
	return load("config.toml", []byte(text), environ, m)
}

// String lists the rows.
func (c *Config) String() string {
	var b strings.Builder
	for _, r := range c.Rows() {
		b.WriteString(r.Key + "=" + r.Value + "\n")
	}
	return b.String()
}
