package snapshot

import (
	"encoding/binary"
	"time"
)

// The format of an exported snapshot. docs/internals/snapshot-format.md describes it.
const (
	streamMagic   = "banger snapshot\n"
	streamVersion = 1
	headerLen     = len(streamMagic) + 4 + 4 + 8
	blockLen      = 2 + 2 + 4 + 4 + 8
	metaOfStream  = 0      // the description
	endOfFiles    = 0xffff // ends the stream
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

// Progress receives how many bytes of content are done, and at most how many there are. It is
// called now and then, by one goroutine at a time, and at the end. It must not block, and may be
// nil.
type Progress func(done, total int64)

// progressEvery is the time between two calls of a Progress.
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
