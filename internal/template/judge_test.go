package template

import (
	"strings"
	"testing"

	"banger/internal/model"
)

// TestRefusedNamesFiles claims that the refusal of a template lists the files as a sentence does.
func TestRefusedNamesFiles(t *testing.T) {
	for want, note := range map[string]model.ImageTemplate{
		`must not share: "/a", "/b\n"`:                    {Shared: []string{"/a", "/b\n"}},
		`must not share: "/a" and more`:                   {Shared: []string{"/a"}, Cut: true},
		"must not share: more files than it could report": {Cut: true},
	} {
		if err := refused("mine:v1", note); !strings.HasSuffix(err.Error(), want) {
			t.Errorf("the refusal is %q; want the end %q", err, want)
		}
	}
}
