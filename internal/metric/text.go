package metric

import (
	"bytes"
	"strconv"
	"strings"
)

// ContentType is the media type of what Write writes (Prometheus, "Exposition formats", text
// version 0.0.4).
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// text builds a document in the text format.
type text struct{ bytes.Buffer }

// head begins a metric. A help text holds no line break.
func (t *text) head(name, help, kind string) {
	t.WriteString("# HELP " + name + " " + strings.ReplaceAll(help, `\`, `\\`) + "\n")
	t.WriteString("# TYPE " + name + " " + kind + "\n")
}

// sample writes one line.
func (t *text) sample(name string, labels, values []string, x float64) {
	t.WriteString(name)
	for i, label := range labels {
		if i == 0 {
			t.WriteByte('{')
		} else {
			t.WriteByte(',')
		}
		t.WriteString(label + `="` + escaper.Replace(strings.ToValidUTF8(values[i], "?")) + `"`)
	}
	if len(labels) > 0 {
		t.WriteByte('}')
	}
	t.WriteString(" " + strconv.FormatFloat(x, 'g', -1, 64) + "\n")
}

// gauge writes a gauge without labels.
func (t *text) gauge(name, help string, x float64) {
	t.head(name, help, "gauge")
	t.sample(name, nil, nil, x)
}

// escaper escapes a label's value.
var escaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
