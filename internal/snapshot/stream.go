package snapshot

import (
	"encoding/binary"
	"time"
)

// An exported snapshot is one stream. Integers are big endian.
//
//	header   magic (16 bytes), version (4), zero (4), data (8): the bytes of all blocks' contents but the description's, at most
//	blocks   file (2), zero (2), content (4): its length, stored (4): the length of what follows, offset (8); then the content, as one
//	         Zstandard frame (RFC 8878) if stored is less than content, else as it is
//	end      a block header of file endOfFiles and zeros; then the SHA-256 of everything before it (32)
//
// The first block is the description (meta.json, file 0). The others are chunks of the files that it lists, numbered from 1 in the order of
// Meta.files. Chunks that are zero are left out; those that are there come in order, whole, and once, so a snapshot has one form only, but
// for the compression. Each is compressed by itself, so that all processors can and so that what it may grow to is known before.
const (
	streamMagic   = "banger snapshot\n"
	streamVersion = 1
	headerLen     = len(streamMagic) + 4 + 4 + 8
	blockLen      = 2 + 2 + 4 + 4 + 8
	metaOfStream  = 0      // the file that is the description
	endOfFiles    = 0xffff // the file that ends the stream
)

// block is a block's header.
type block struct {
	file    uint16
	content uint32
	stored  uint32
	offset  uint64
}

func (b block) append(to []byte) []byte {
	to = binary.BigEndian.AppendUint16(to, b.file)
	to = binary.BigEndian.AppendUint16(to, 0)
	to = binary.BigEndian.AppendUint32(to, b.content)
	to = binary.BigEndian.AppendUint32(to, b.stored)
	return binary.BigEndian.AppendUint64(to, b.offset)
}

// parseBlock reads blockLen bytes.
func parseBlock(p []byte) (block, error) {
	if binary.BigEndian.Uint16(p[2:]) != 0 {
		return block{}, damaged("a block's header is wrong")
	}
	return block{
		file: binary.BigEndian.Uint16(p), content: binary.BigEndian.Uint32(p[4:]), stored: binary.BigEndian.Uint32(p[8:]),
		offset: binary.BigEndian.Uint64(p[12:]),
	}, nil
}

// Progress is told how many bytes of a stream's contents are done, and how many there are, at most: now and then, by one goroutine at a
// time, and at the end. It must not block. Nil is allowed.
type Progress func(done, total int64)

// progressEvery is how often a running count is reported.
const progressEvery = 200 * time.Millisecond

// meter counts for a Progress.
type meter struct {
	report      Progress
	done, total int64
	last        time.Time
}

func (m *meter) add(n int) {
	m.done += int64(n)
	if now := time.Now(); m.report != nil && now.Sub(m.last) >= progressEvery {
		m.last = now
		m.report(m.done, m.total)
	}
}

func (m *meter) finish() {
	if m.report != nil {
		m.report(m.total, m.total)
	}
}
