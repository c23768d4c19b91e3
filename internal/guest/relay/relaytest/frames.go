// Package relaytest has what a hostile guest may send in the stream of a command, for the tests of
// all who stand between guest and client.
package relaytest

import "banger/internal/guest/proto"

// Frame is one frame.
type Frame struct {
	Kind    proto.FrameType
	Payload string
}

// The payloads of the frames that are allowed in some phase.
const (
	Ack     = "\x00\x00\x00\x02" // of two bytes
	Exit    = `{"code":3}`
	Problem = `{"kind":"internal","message":"no","detail":"banger broke","hint":"run this","log":"/etc/passwd","vm":"other"}`
)

// Frames are frames of each kind. Some payloads are broken, and some pretend to come from the
// daemon.
var Frames = []Frame{
	{proto.FrameStart, `{"argv":["sh"]}`},
	{proto.FrameStdin, "input"},
	{proto.FrameResize, `{"rows":1,"cols":1}`},
	{proto.FrameSignal, "SIGINT"},
	{proto.FrameHangup, ""},
	{proto.FrameStdout, "out"},
	{proto.FrameStdout, ""},
	{proto.FrameStderr, "err"},
	{proto.FrameAck, Ack},
	{proto.FrameAck, "\xff\xff\xff\xff"},
	{proto.FrameAck, "x"},
	{proto.FrameExit, Exit},
	{proto.FrameExit, `{"code":300}`},
	{proto.FrameExit, "none"},
	{proto.FrameError, Problem},
	{proto.FrameError, "none"},
	{proto.FrameEvent, `{"step":"vm","phase":"done","detail":"another","time":"9999-01-01T00:00:00Z","took":9223372036854775807}`},
	{proto.FrameEvent, `{"step":"delete","phase":"failed","detail":"another","error":"lie"}`},
	{99, "x"},
}
