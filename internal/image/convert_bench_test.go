package image

import (
	"context"
	"io"
	"os"
	"testing"
)

func TestScratch(t *testing.T) {
	src := "/tmp/w/image/x.tar"
	for _, mode := range []string{"two", "one"} {
		out, _ := os.Create("/tmp/w/image/out-" + mode + ".ext4")
		c := &conversion{limits: Limits{}.withDefaults(), out: out}
		var err error
		if mode == "two" {
			_, err = c.layers(context.Background(), []layer{{label: "x", open: func(context.Context) (io.ReadCloser, error) { return os.Open(src) }}}, true)
		} else {
			f, _ := os.Open(src)
			_, _, err = c.stream(context.Background(), f)
		}
		if err != nil {
			t.Fatal(err)
		}
		out.Close()
	}
}
