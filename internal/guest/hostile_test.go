package guest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/guest/report"
)

// shape is the kind of answer that a call reads.
type shape int

const (
	document shape = iota // JSON
	nothing               // a status
	content               // a status and a stream of bytes, which the call returns
	upgrade               // status 101 and a stream
)

// hostileCalls are all calls to an agent, by the Client's method.
var hostileCalls = map[string]struct {
	reads shape
	do    func(context.Context, *Client) error
}{
	"Hello":    {document, func(ctx context.Context, c *Client) error { return second(c.Hello(ctx)) }},
	"Wake":     {document, func(ctx context.Context, c *Client) error { return second(c.Wake(ctx)) }},
	"Assume":   {document, func(ctx context.Context, c *Client) error { return second(c.Assume(ctx, proto.Assume{})) }},
	"Freeze":   {document, func(ctx context.Context, c *Client) error { return second(c.Freeze(ctx)) }},
	"Ports":    {document, func(ctx context.Context, c *Client) error { return second(c.Ports(ctx)) }},
	"Stats":    {document, func(ctx context.Context, c *Client) error { return second(c.Stats(ctx)) }},
	"Writes":   {document, func(ctx context.Context, c *Client) error { return second(c.Writes(ctx)) }},
	"Thaw":     {nothing, func(ctx context.Context, c *Client) error { return c.Thaw(ctx, proto.Thaw{}) }},
	"Sync":     {nothing, func(ctx context.Context, c *Client) error { return c.Sync(ctx) }},
	"Resize":   {nothing, func(ctx context.Context, c *Client) error { return c.Resize(ctx, "work", 1<<30) }},
	"PowerOff": {document, func(ctx context.Context, c *Client) error { return second(c.PowerOff(ctx, 0)) }},
	"PutFiles": {nothing, func(ctx context.Context, c *Client) error { return c.PutFiles(ctx, "/x", zeros{}) }},
	"GetFiles": {content, func(ctx context.Context, c *Client) error {
		r, err := c.GetFiles(ctx, "/x")
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.CopyN(io.Discard, r, proto.MaxReply) // a caller reads as much as it wants
		if err == io.EOF {
			err = nil
		}
		return err
	}},
	"Upgrade": {upgrade, func(ctx context.Context, c *Client) error {
		conn, err := c.Upgrade(ctx, "/v1/dial?port=80")
		if err == nil {
			conn.Close()
		}
		return err
	}},
	"Exec": {upgrade, func(ctx context.Context, c *Client) error {
		return second(c.Exec(ctx, proto.ExecRequest{}, IO{Stdin: zeros{}}))
	}},
}

func second[T any](_ T, err error) error { return err }

const (
	jsonHead = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	fill     = "aaaaaaaaaaaaaaa"
)

// says answers with a text and closes the stream.
func says(text string) func(net.Conn) {
	return func(conn net.Conn) { io.WriteString(conn, text) }
}

// stalls answers with a text and then neither says anything nor closes the stream.
func stalls(text string) func(net.Conn) {
	return func(conn net.Conn) {
		io.WriteString(conn, text)
		io.Copy(io.Discard, conn)
	}
}

// floods answers with a text and then repeats another one for as long as the host reads.
func floods(text, again string) func(net.Conn) {
	return func(conn net.Conn) {
		io.WriteString(conn, text)
		more := []byte(strings.Repeat(again, 1+(16<<10)/len(again)))
		for {
			if _, err := conn.Write(more); err != nil {
				return
			}
		}
	}
}

// replies is a complete answer with a body.
func replies(status int, body string) func(net.Conn) {
	return says(fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body))
}

// hostileAnswers are what an agent may do with any request. Calls of the shapes in fine have no
// reason to object. All others end with fault.Unavailable, or with the kind that is given.
var hostileAnswers = map[string]struct {
	play func(net.Conn)
	kind fault.Kind
	fine []shape
}{
	"closed connection":          {play: says("")},
	"silence":                    {play: stalls("")},
	"half a head":                {play: says("HTTP/1.1 200 OK\r\nContent-Ty")},
	"half a head and silence":    {play: stalls("HTTP/1.1 200 OK\r\nContent-Ty")},
	"half a body":                {play: says(jsonHead + "Content-Length: 1000\r\n\r\n{")},
	"half a body and silence":    {play: stalls(jsonHead + "Content-Length: 1000\r\n\r\n{")},
	"half a chunk":               {play: says(jsonHead + "Transfer-Encoding: chunked\r\n\r\nff\r\n{")},
	"endless line":               {play: floods("", fill)},
	"endless head":               {play: floods("HTTP/1.1 200 OK\r\n", "X: y\r\n")},
	"endless body":               {play: floods(jsonHead+"\r\n", fill), fine: []shape{content}},
	"endless refusal":            {play: floods("HTTP/1.1 500 X\r\n\r\n", fill)},
	"endless interim answers":    {play: floods("", "HTTP/1.1 100 Continue\r\n\r\n")},
	"endless chunk extension":    {play: floods(jsonHead+"Transfer-Encoding: chunked\r\n\r\n1;", fill)},
	"endless trailer":            {play: floods(jsonHead+"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", "X: y\r\n")},
	"empty chunks without end":   {play: floods(jsonHead+"Transfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n"), fine: []shape{content}},
	"length beyond a number":     {play: says(jsonHead + "Content-Length: 99999999999999999999\r\n\r\n{}")},
	"huge length":                {play: says(jsonHead + "Content-Length: 9999999999999\r\n\r\n{}")},
	"negative length":            {play: says(jsonHead + "Content-Length: -1\r\n\r\n{}")},
	"two lengths":                {play: says(jsonHead + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}")},
	"huge chunk":                 {play: says(jsonHead + "Transfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n{}")},
	"chunk beyond a number":      {play: says(jsonHead + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}")},
	"another protocol":           {play: says("SSH-2.0-OpenSSH_9.2\r\n\r\n")},
	"status beyond HTTP":         {play: replies(999, "{}")},
	"redirect":                   {play: says("HTTP/1.1 302 X\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n")},
	"refusal without a kind":     {play: replies(400, "{}")},
	"refusal of a foreign kind":  {play: replies(400, `{"kind":"root-access","message":"x"}`)},
	"refusal of the wrong types": {play: replies(400, `{"kind":7,"message":[]}`)},
	"refusal of a usual kind":    {play: replies(400, `{"kind":"denied","message":"\u001b[2J"}`), kind: fault.Denied},
	"text":                       {play: replies(200, `"text"`), fine: []shape{nothing, content}},
	"number":                     {play: replies(200, `1e999`), fine: []shape{nothing, content}},
	"depth":                      {play: replies(200, strings.Repeat("[", proto.MaxReply)), fine: []shape{nothing, content}},
	"fields of the wrong types": {
		play: replies(200, `[{"port":"x","addr":7}]`), fine: []shape{nothing, content},
	},
	"numbers beyond their types": {
		play: replies(200, `{"generation":1e30,"uptime":1e30,"processes":1e30,"killed":2,"handover":2,"memory":1e30,"disks":{},"more":2}`),
		fine: []shape{nothing, content},
	},
	"not JSON":              {play: says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), fine: []shape{nothing, content}},
	"frames without an end": {play: floods("HTTP/1.1 101 X\r\n\r\n", "\x10\x00\x00\x00\x01a"), fine: []shape{upgrade}},
	"frame of huge length":  {play: stalls("HTTP/1.1 101 X\r\n\r\n\x10\xff\xff\xff\xff"), fine: []shape{upgrade}},
	"half a frame":          {play: says("HTTP/1.1 101 X\r\n\r\n\x10\x00\x00"), fine: []shape{upgrade}},
	"stream and silence":    {play: stalls("HTTP/1.1 101 X\r\n\r\n"), fine: []shape{upgrade}},
}

// TestHostileCalls plays each hostile answer to each call. The call ends within its deadline, with
// an error of the right kind. The agent gets rid of a bounded number of bytes. No goroutine stays.
func TestHostileCalls(t *testing.T) {
	for i, client := 0, reflect.TypeFor[*Client](); i < client.NumMethod(); i++ {
		name := client.Method(i).Name
		if _, listed := hostileCalls[name]; !listed && !slices.Contains([]string{"Close", "Observe", "Redial"}, name) {
			t.Errorf("the call %s is not in the table", name)
		}
	}
	before := runtime.NumGoroutine()
	var calls sync.WaitGroup
	slots := make(chan struct{}, 16)
	for callName, call := range hostileCalls {
		for answerName, answer := range hostileAnswers {
			calls.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				what := fmt.Sprintf("%s, answered with %q", callName, answerName)
				want, patience := answer.kind, time.Minute
				if want == "" && !slices.Contains(answer.fine, call.reads) {
					want = fault.Unavailable
				}
				unbounded := callName == "Exec" && want == "" // the command may write without end
				if unbounded || want == fault.Unavailable {
					patience = hostileDeadline // nothing more may come
				}
				sent, err := hostileCall(t, what, patience, answer.play, call.do)
				if kind := fault.KindOf(err); kind != want && !unbounded {
					t.Errorf("%s: the error is of kind %q, not %q: %v", what, kind, want, err)
				}
				if err != nil && len(err.Error()) > 2*report.MaxText {
					t.Errorf("%s: the error has %d bytes", what, len(err.Error()))
				}
				// One reply may come in chunks of one byte, each with five bytes around it. The
				// stream's window holds more.
				if most := int64(6*proto.MaxReply + 2<<20); sent > most && !unbounded {
					t.Errorf("%s: the agent sent %d bytes; at most %d are to be read", what, sent, most)
				}
			})
		}
	}
	calls.Wait()
	awaitGoroutines(t, before)
}

const (
	hostileDeadline = 300 * time.Millisecond
	hostileSlack    = 20 * time.Second // for a busy host
)

// hostileCall makes one call to an agent that plays an answer. It returns how much the agent could
// send.
func hostileCall(
	t *testing.T, what string, patience time.Duration, play func(net.Conn), do func(context.Context, *Client) error,
) (int64, error) {
	var sent atomic.Int64
	c, f := newHostileClient(raw(func(conn net.Conn) { play(countingConn{conn, &sent}) }))
	defer f.die()
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	err := do(ctx, c)
	if took := time.Since(began); took > patience+hostileSlack {
		t.Errorf("%s: the call took %v with a deadline of %v", what, took, patience)
	}
	return sent.Load(), err
}

func newHostileClient(h http.HandlerFunc) (*Client, *fake) {
	f := &fake{handler: h}
	return New(f.dial, slog.New(slog.DiscardHandler)), f
}

// countingConn counts what is written.
type countingConn struct {
	net.Conn
	n *atomic.Int64
}

func (c countingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// awaitGoroutines waits until no more goroutines run than before.
func awaitGoroutines(t *testing.T, before int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines run, %d ran before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// session is an agent that plays on the channel itself until the host has closed it.
type session func(conn net.Conn, over <-chan struct{})

// plays is a session that needs not know when it is over.
func plays(play func(net.Conn)) session {
	return func(conn net.Conn, _ <-chan struct{}) { play(conn) }
}

// deaf reads nothing.
func deaf(_ net.Conn, over <-chan struct{}) { <-over }

var hostileSessions = map[string]session{
	"no ears":                     deaf,
	"silence":                     plays(stalls("")),
	"a closed connection":         plays(says("")),
	"endless bytes":               plays(floods("", fill)),
	"endless greetings":           plays(floods("", "BANGER/2 00000000000000000000000000000000\n")),
	"an end after the echo":       afterEcho(plays(says(""))),
	"silence after the echo":      afterEcho(plays(stalls(""))),
	"no ears after the echo":      afterEcho(deaf),
	"bytes after the echo":        afterEcho(plays(floods("", fill))),
	"streams after the echo":      afterEcho(plays(floods("", "\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x00"))),
	"a huge frame after the echo": afterEcho(plays(stalls("\x00\x00\x00\x00\x00\x00\x00\x01\xff\xff\xff\xff"))),
	"resets after the echo":       afterEcho(plays(floods("", "\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00"))),
	"farewells after the echo":    afterEcho(plays(floods("", "\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))),
}

// TestHostileSessions plays what an agent may do with the channel itself to each call.
func TestHostileSessions(t *testing.T) {
	before := runtime.NumGoroutine()
	var calls sync.WaitGroup
	for playName, play := range hostileSessions {
		for callName, call := range hostileCalls {
			calls.Go(func() {
				what := fmt.Sprintf("%s, to an agent with %q", callName, playName)
				var dials atomic.Int32
				over := make(chan struct{})
				defer close(over)
				c := New(func(context.Context) (net.Conn, error) {
					dials.Add(1)
					host, guest := net.Pipe()
					go func() {
						defer guest.Close()
						play(guest, over)
					}()
					return host, nil
				}, slog.New(slog.DiscardHandler))
				defer c.Close()
				ctx, cancel := context.WithTimeout(t.Context(), hostileDeadline)
				defer cancel()
				began := time.Now()
				err := call.do(ctx, c)
				if kind := fault.KindOf(err); kind != fault.Unavailable {
					t.Errorf("%s: the error is of kind %q: %v", what, kind, err)
				}
				if took := time.Since(began); took > hostileDeadline+hostileSlack {
					t.Errorf("%s: the call took %v with a deadline of %v", what, took, hostileDeadline)
				}
				if n := dials.Load(); n > maxSessions {
					t.Errorf("%s: the call made %d connections; at most %d are useful", what, n, maxSessions)
				}
			})
		}
	}
	calls.Wait()
	awaitGoroutines(t, before)
}

// afterEcho answers the handshake and then plays something instead of the session.
func afterEcho(play session) session {
	return func(conn net.Conn, over <-chan struct{}) {
		r := bufio.NewReader(conn)
		line, err := r.ReadString('\n')
		for err == nil && strings.TrimSpace(line) == "" {
			line, err = r.ReadString('\n')
		}
		if err == nil {
			io.WriteString(conn, line)
			play(conn, over)
		}
	}
}
