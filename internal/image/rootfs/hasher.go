package rootfs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"sync"
)

// hasher reads ahead of its reader and takes the sha256 of all data. So decompressing and hashing
// run while the archive is parsed.
type hasher struct {
	chunks chan []byte // read, in order
	free   chan []byte // free buffers
	quit   chan struct{}
	done   chan struct{} // closed when the reading goroutine has ended
	once   sync.Once
	hash   hash.Hash
	err    error // why reading ended; set when chunks is closed

	chunk, rest []byte
}

const (
	hashChunk  = 256 << 10
	hashChunks = 4
)

func newHasher(r io.Reader) *hasher {
	h := &hasher{
		chunks: make(chan []byte, hashChunks), free: make(chan []byte, hashChunks),
		quit: make(chan struct{}), done: make(chan struct{}), hash: sha256.New(),
	}
	for range hashChunks {
		h.free <- make([]byte, hashChunk)
	}
	go h.run(r)
	return h
}

func (h *hasher) run(r io.Reader) {
	defer close(h.done)
	defer close(h.chunks)
	for {
		var buf []byte
		select {
		case buf = <-h.free:
		case <-h.quit:
			h.err = errors.New("stopped")
			return
		}
		n, err := io.ReadFull(r, buf[:hashChunk])
		h.hash.Write(buf[:n])
		h.chunks <- buf[:n] // never blocks: there are no more buffers
		if err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		if err != nil {
			h.err = err
			return
		}
	}
}

// Read is io.Reader.
func (h *hasher) Read(p []byte) (int, error) {
	for len(h.rest) == 0 {
		if h.chunk != nil {
			h.free <- h.chunk[:hashChunk]
			h.chunk = nil
		}
		chunk, ok := <-h.chunks
		if !ok {
			return 0, h.err
		}
		h.chunk, h.rest = chunk, chunk
	}
	n := copy(p, h.rest)
	h.rest = h.rest[n:]
	return n, nil
}

// sum reads the rest and returns the digest of everything, in hex.
func (h *hasher) sum() (string, error) {
	if _, err := io.Copy(io.Discard, h); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.hash.Sum(nil)), nil
}

// stop ends the reading goroutine and waits for it. interrupt, if set, must end a Read that may
// wait.
func (h *hasher) stop(interrupt func()) {
	h.once.Do(func() { close(h.quit) })
	select {
	case <-h.done:
		return
	default:
	}
	if interrupt != nil {
		interrupt()
	}
	<-h.done
}
