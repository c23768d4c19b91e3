package memory

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	maxIOV  = 1024   // UIO_MAXIOV (include/uapi/linux/uio.h)
	bounced = 1 << 8 // pages of the bounce buffer: about as much as a core's cache holds
)

// span is a run of pages of a task.
type span struct{ from, to int64 } // page numbers

// worker does one task after the other. The bits of a task fill whole words: workers share none.
type worker struct {
	c       *Copy
	addr    uint64 // of the task
	entries []byte // of the pagemap
	bounce  []byte
	news    []span // pages of the task that are holes in the file
	olds    []span // its other pages
	batch   []span
	remote  []unix.RemoteIovec
	local   []unix.Iovec
}

func newWorker(c *Copy) *worker {
	return &worker{c: c, entries: make([]byte, chunk/pageSize*8), bounce: make([]byte, bounced*pageSize)}
}

// The bits of a pagemap entry (Documentation/admin-guide/mm/pagemap.rst).
const (
	present = 1 << 63
	swapped = 1 << 62
	file    = 1 << 61 // a page of a file, or shared
)

// look lists the task's pages that the process owns now, and those that the first pass has taken.
func (w *worker) look(t task) error {
	c := w.c
	w.addr = t.addr
	entries := w.entries[:(t.to-t.from)*8]
	if _, err := c.pagemap.ReadAt(entries, int64(w.address(t.from)/pageSize)*8); err != nil {
		return fmt.Errorf("reading the pagemap: %w", err)
	}
	w.news, w.olds = w.news[:0], w.olds[:0]
	for page := t.from; page < t.to; page++ {
		e := binary.NativeEndian.Uint64(entries[(page-t.from)*8:])
		own := e&(present|swapped) != 0 && e&file == 0
		switch {
		case !own && !has(c.taken, page):
		case has(c.holes, page):
			w.news = grown(w.news, page)
		default:
			w.olds = grown(w.olds, page)
		}
	}
	return nil
}

// address is where the process has a page of the task.
func (w *worker) address(page int64) uint64 { return w.addr + uint64(page)*pageSize }

// grown adds a page after those of spans. No span gets longer than the bounce buffer.
func grown(spans []span, page int64) []span {
	if n := len(spans); n > 0 && spans[n-1].to == page && page-spans[n-1].from < bounced {
		spans[n-1].to++
		return spans
	}
	return append(spans, span{page, page + 1})
}

// first does a task of the first pass.
func (w *worker) first(t task) error {
	if err := w.look(t); err != nil {
		return err
	}
	for _, spans := range [][]span{w.news, w.olds} {
		if err := w.sift(spans); err != nil {
			return err
		}
		for _, s := range spans {
			w.settle(s)
		}
	}
	return nil
}

// settle marks a span as taken. The kernel does now what the first access to the mapping costs
// (madvise(2)). Linux before 5.14 does it in the last pass.
func (w *worker) settle(s span) {
	var data []span
	for page := s.from; page < s.to; page++ {
		add(w.c.taken, page)
		if !has(w.c.holes, page) {
			data = grown(data, page)
		}
	}
	for _, d := range data {
		_ = unix.Madvise(w.c.mapped[d.from*pageSize:d.to*pageSize], unix.MADV_POPULATE_WRITE)
	}
}

// last does a task of the last pass.
func (w *worker) last(t task) error {
	if err := w.look(t); err != nil {
		return err
	}
	if err := w.move(w.olds); err != nil {
		return err
	}
	return w.sift(w.news)
}

// move reads spans directly into the file's page cache.
func (w *worker) move(spans []span) error {
	for len(spans) > 0 {
		rest, size := w.take(spans, chunk/pageSize)
		w.local = w.local[:0]
		for _, s := range w.batch {
			w.local = append(w.local, unix.Iovec{Base: &w.c.mapped[s.from*pageSize], Len: uint64(s.to-s.from) * pageSize})
		}
		if n, err := unix.ProcessVMReadv(w.c.pid, w.local, w.remote, 0); err != nil || n != size {
			// Perhaps the file system is full: then the mapping has no page. A write reports it.
			return w.sift(spans)
		}
		spans = rest
	}
	return nil
}

// sift reads spans, makes holes of the zero pages, and writes the other pages.
func (w *worker) sift(spans []span) error {
	for len(spans) > 0 {
		rest, size := w.take(spans, bounced)
		w.local = append(w.local[:0], unix.Iovec{Base: &w.bounce[0], Len: uint64(size)})
		if n, err := unix.ProcessVMReadv(w.c.pid, w.local, w.remote, 0); err != nil {
			return fmt.Errorf("reading the memory of process %d: %w", w.c.pid, err)
		} else if n != size {
			return fmt.Errorf("reading the memory of process %d: %d bytes are not %d", w.c.pid, n, size)
		}
		data := w.bounce
		for _, s := range w.batch {
			if err := w.c.put(s, data); err != nil {
				return err
			}
			data = data[(s.to-s.from)*pageSize:]
		}
		spans = rest
	}
	return nil
}

// take moves spans of at most that many pages into w.batch and w.remote. It returns the remaining
// spans, and the bytes of those that it took.
func (w *worker) take(spans []span, most int64) (rest []span, size int) {
	n := 0
	w.remote = w.remote[:0]
	for _, s := range spans {
		most -= s.to - s.from
		if most < 0 || n == maxIOV {
			break
		}
		length := int(s.to-s.from) * pageSize
		w.remote = append(w.remote, unix.RemoteIovec{Base: uintptr(w.address(s.from)), Len: length})
		size += length
		n++
	}
	w.batch = spans[:n]
	return spans[n:], size
}

var zero [pageSize]byte

// put writes the pages of a span that are not zero, and makes holes of the zero pages.
func (c *Copy) put(s span, data []byte) error {
	isZero := func(page int64) bool {
		at := (page - s.from) * pageSize
		return bytes.Equal(data[at:at+pageSize], zero[:])
	}
	for page := s.from; page < s.to; {
		end := page + 1
		if isZero(page) {
			for end < s.to && isZero(end) {
				end++
			}
			if err := c.clear(page, end); err != nil {
				return err
			}
		} else {
			for end < s.to && !isZero(end) {
				end++
			}
			if _, err := c.out.WriteAt(data[(page-s.from)*pageSize:(end-s.from)*pageSize], page*pageSize); err != nil {
				return err
			}
			for p := page; p < end; p++ {
				drop(c.holes, p)
			}
		}
		page = end
	}
	return nil
}

// clear zeroes the pages [from, to) of the file.
func (c *Copy) clear(from, to int64) error {
	for page := from; page < to; {
		end := page + 1
		for end < to && has(c.holes, end) == has(c.holes, page) {
			end++
		}
		if !has(c.holes, page) {
			if err := punch(c.out, page, end); err != nil {
				return err
			}
			for p := page; p < end; p++ {
				add(c.holes, p)
			}
		}
		page = end
	}
	return nil
}
