package rootfs

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
)

// bombs are entries that take as much memory as possible. Compressed, two million of them take a
// few megabytes.
var bombs = map[string]func(i int) *tar.Header{
	"files":       func(i int) *tar.Header { return &tar.Header{Name: fmt.Sprintf("f%07d", i)} },
	"names":       func(i int) *tar.Header { return &tar.Header{Name: fmt.Sprintf("%07d%0248d", i, 0)} },
	"directories": func(i int) *tar.Header { return &tar.Header{Name: fmt.Sprintf("d%07d/f", i)} },
	"symbolic links": func(i int) *tar.Header {
		return &tar.Header{Name: fmt.Sprintf("l%07d", i), Typeflag: symlink, Linkname: strings.Repeat("t", maxTarget)}
	},
	"pending links": func(i int) *tar.Header {
		return &tar.Header{Name: fmt.Sprintf("h%07d", i), Typeflag: link, Linkname: strings.Repeat("d/", 1000) + "t"}
	},
	"replaced pending links": func(int) *tar.Header {
		return &tar.Header{Name: "h", Typeflag: link, Linkname: strings.Repeat("d/", 1000) + "t"}
	},
	"hard links": func(i int) *tar.Header {
		if i%60_000 == 0 {
			return &tar.Header{Name: fmt.Sprintf("f%07d", i)}
		}
		return &tar.Header{Name: fmt.Sprintf("h%07d", i), Typeflag: link, Linkname: fmt.Sprintf("f%07d", i-i%60_000)}
	},
	"attributes": func(i int) *tar.Header {
		return &tar.Header{Name: fmt.Sprintf("x%07d", i), PAXRecords: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("v", 4000)}}
	},
	"small attributes": func(i int) *tar.Header {
		records := map[string]string{}
		for k := range 100 {
			records[fmt.Sprintf("SCHILY.xattr.user.%02d", k)] = "v"
		}
		return &tar.Header{Name: fmt.Sprintf("x%07d", i), PAXRecords: records}
	},
}

// bomb is a layer of count entries that exists nowhere as a whole. seen receives how many of them
// were written.
func bomb(count int, entry func(int) *tar.Header, seen *atomic.Int64) Layer {
	return Layer{Label: "bomb", Open: func(context.Context) (io.ReadCloser, error) {
		pr, pw := io.Pipe()
		go func() {
			w := tar.NewWriter(pw)
			for i := range count {
				hdr := entry(i)
				hdr.Mode, hdr.ModTime = 0o644, testTime
				if err := w.WriteHeader(hdr); err != nil {
					pw.CloseWithError(err)
					return
				}
				seen.Store(int64(i + 1))
			}
			pw.CloseWithError(w.Close())
		}()
		return pr, nil
	}}
}

// watchHeap returns a function that returns the largest size of the heap since, in bytes.
func watchHeap() func() uint64 {
	runtime.GC()
	stop, peak := make(chan struct{}), make(chan uint64)
	go func() {
		most := uint64(0)
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
			select {
			case <-tick.C:
			case <-stop:
				tick.Stop()
				peak <- most
				return
			}
		}
	}()
	return func() uint64 { close(stop); return <-peak }
}

// BenchmarkBombs shows the largest heap while hostile archives are converted, without a budget and
// with one. BANGER_BOMB_ENTRIES is the number of entries.
func BenchmarkBombs(b *testing.B) {
	count := 20_000
	fmt.Sscan(os.Getenv("BANGER_BOMB_ENTRIES"), &count)
	for name, entry := range bombs {
		for budget, tree := range map[string]model.Bytes{"no budget": model.TiB, "16 MiB": 16 * model.MiB} {
			b.Run(name+"/"+budget, func(b *testing.B) {
				for b.Loop() {
					var seen atomic.Int64
					peak := watchHeap()
					_, _, err := convertLayers(b, Limits{Tree: tree}, bomb(count, entry, &seen))
					b.ReportMetric(float64(peak())/1e6, "peak-MB")
					b.ReportMetric(float64(seen.Load()), "entries")
					b.Logf("%d entries: %.200v", seen.Load(), err)
				}
			})
		}
	}
}

// TestBombs checks that each bomb ends at the budget, long before its end, and that the error names
// the budget.
func TestBombs(t *testing.T) {
	limits := Limits{Tree: 2 * model.MiB}.WithDefaults()
	for name, entry := range bombs {
		t.Run(name, func(t *testing.T) {
			const count = 40_000
			var seen atomic.Int64
			_, _, err := convertLayers(t, limits, bomb(count, entry, &seen))
			if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "the memory for the names, link targets and attributes") {
				t.Errorf("got %v, want an error that names the budget", err)
			}
			const ahead = 2 * hashChunk * hashChunks / 512 // entries that are read ahead
			if most := int64(limits.Tree)/nameCost + ahead; seen.Load() > most {
				t.Errorf("%d of %d entries were read; at most %d fit into the budget", seen.Load(), count, most)
			}
			if fault.HintOf(err) == "" {
				t.Error("the error has no hint")
			}
		})
	}
}

// TestBudgetIsShared checks that the layers of an image share one budget.
func TestBudgetIsShared(t *testing.T) {
	limits := Limits{Tree: 2 * model.MiB}.WithDefaults()
	half := int(limits.Tree) * 3 / 4 / inodeCost
	for layers, want := range map[int]fault.Kind{1: "", 2: fault.Invalid} {
		var l []Layer
		for range layers {
			l = append(l, bomb(half, bombs["files"], new(atomic.Int64)))
		}
		if _, _, err := convertLayers(t, limits, l...); fault.KindOf(err) != want {
			t.Errorf("%d layers that need 3/4 of the budget each: got %v, want the kind %q", layers, err, want)
		}
	}
}

// TestBudgetIsHonest checks that a tree takes no more memory than was charged for it.
func TestBudgetIsHonest(t *testing.T) {
	for name, entry := range bombs {
		t.Run(name, func(t *testing.T) {
			c := &Conversion{Limits: Limits{}.WithDefaults()}
			tree := newTree(c.Limits)
			before := liveHeap()
			r, _ := bomb(2000, entry, new(atomic.Int64)).Open(t.Context())
			defer r.Close()
			tr := tar.NewReader(r)
			for i := 0; ; i++ {
				hdr, err := tr.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := tree.add(hdr, place{1, i}, true); err != nil {
					t.Fatal(err)
				}
			}
			if grown := liveHeap() - before; grown > int64(tree.memory) {
				t.Errorf("the tree takes %d bytes, but only %d were charged", grown, tree.memory)
			}
			runtime.KeepAlive(tree)
		})
	}
}

// liveHeap returns the bytes of all objects that are in use.
func liveHeap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestManyAttributes checks that a file with thousands of attributes takes a bounded number of
// steps, and that such files end the conversion.
func TestManyAttributes(t *testing.T) {
	records := map[string]string{}
	for i := range 20_000 {
		records[fmt.Sprintf("SCHILY.xattr.user.%05d", i)] = "v"
	}
	tree := newTree(Limits{}.WithDefaults())
	n := &inode{}
	if err := tree.keepXattrs(n, records); err != nil {
		t.Fatal(err)
	}
	if len(n.xattrs) == 0 || len(n.xattrs) > maxXattrs || tree.work == 0 || tree.work > maxXattrs*maxXattrs*maxXattrs {
		t.Errorf("kept %d attributes in %d steps", len(n.xattrs), tree.work)
	}
	tree.work = maxWork
	if err := tree.keepXattrs(n, records); fault.KindOf(err) != fault.Invalid {
		t.Errorf("after too many steps: got %v, want an error", err)
	}
}
