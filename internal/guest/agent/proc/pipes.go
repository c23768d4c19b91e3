package proc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/proto"
)

// outputGrace is how long the output may stay open after the command's end. The command's own
// output is in the pipe by then and is always delivered. A daemon that it left behind may hold the
// pipe open for ever.
const outputGrace = 300 * time.Millisecond

// process is a running command with pipes or a terminal.
type process struct {
	table    *Table
	child    *child
	terminal *os.File      // nil without one
	output   chan struct{} // closed when all output was delivered
}

// startPipes starts a command without a terminal.
func (r *Runner) startPipes(c *command, s Streams) (Process, error) {
	var open files
	defer open.close()
	stdin, feed, err := open.input(s.Stdin)
	if err != nil {
		return nil, err
	}
	stdout, fromOut, err := open.output(s.Stdout)
	if err != nil {
		return nil, err
	}
	stderr, fromErr, err := open.output(s.Stderr)
	if err != nil {
		return nil, err
	}
	kid, err := r.run(c, [3]*os.File{stdin, stdout, stderr})
	if err != nil {
		return nil, err
	}
	open.keep(feed, fromOut, fromErr)
	p := &process{table: r.Table, child: kid, output: make(chan struct{})}
	if feed != nil {
		go supply(feed, s.Stdin)
		go func() {
			<-kid.done
			feed.Close()
		}()
	}
	var outputs sync.WaitGroup
	for _, o := range []output{{fromOut, s.Stdout}, {fromErr, s.Stderr}} {
		if o.from != nil {
			outputs.Go(func() { o.deliver(kid.done) })
		}
	}
	go func() {
		<-kid.done
		outputs.Wait()
		close(p.output)
	}()
	return p, nil
}

// supply copies standard input. It ends when the command closes its end. It may wait in Read until
// the stream ends.
func supply(to *os.File, from io.Reader) {
	io.Copy(to, from)
	to.Close()
}

func (p *process) Wait() proto.Exit {
	<-p.child.done
	<-p.output
	status := p.child.status
	if status.Signaled() {
		return proto.Exit{Code: 128 + int(status.Signal()), Signal: signalName(status.Signal())}
	}
	return proto.Exit{Code: status.ExitStatus()}
}

func (p *process) Signal(name string) error {
	sig, err := ParseSignal(name)
	if err != nil {
		return err
	}
	return p.table.signal(p.child, sig)
}

func (p *process) Hangup() { p.table.end(p.child, hangupGrace) }

// output is one stream of a command's output.
type output struct {
	from *os.File
	to   io.Writer
}

// deliver copies until the end of the output. After done is closed, it stops after outputGrace with
// what is there.
func (o output) deliver(done <-chan struct{}) {
	defer o.from.Close()
	delivered := make(chan struct{})
	defer close(delivered)
	go func() {
		select {
		case <-done:
			o.from.SetReadDeadline(time.Now().Add(outputGrace))
		case <-delivered:
		}
	}()
	_, err := io.CopyBuffer(onlyWriter{o.to}, onlyReader{o.from}, make([]byte, proto.MaxFrame))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		o.rest()
	}
}

// rest delivers what the pipe holds at this moment. Another process may still write to it.
func (o output) rest() {
	o.from.SetReadDeadline(time.Time{})
	raw, err := o.from.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, proto.MaxFrame)
	for left := maxPipe; left > 0; {
		n := 0
		raw.Read(func(fd uintptr) bool {
			n, err = unix.Read(int(fd), buf[:min(len(buf), left)])
			return true // never wait
		})
		if err != nil || n <= 0 {
			return
		}
		if _, err := o.to.Write(buf[:n]); err != nil {
			return
		}
		left -= n
	}
}

// maxPipe is the default capacity of a pipe (pipe(7)). It is more than a terminal holds.
const maxPipe = 64 << 10

// onlyReader and onlyWriter hide methods with which io.Copy would bypass our buffer and our
// deadline.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// files collects the files to close after a start: all of them after a failure, the child's ends
// after a success.
type files []*os.File

func (f *files) close() {
	for _, file := range *f {
		file.Close()
	}
}

// keep takes files off the list.
func (f *files) keep(kept ...*os.File) {
	rest := files{}
	for _, file := range *f {
		wanted := false
		for _, k := range kept {
			wanted = wanted || k == file
		}
		if !wanted {
			rest = append(rest, file)
		}
	}
	*f = rest
}

// input makes the child's standard input. feed is our end, or nil if there is nothing to send.
func (f *files) input(from io.Reader) (child, feed *os.File, err error) {
	if from == nil {
		child, err = f.null()
		return child, nil, err
	}
	child, feed, err = os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("making a pipe: %w", err)
	}
	*f = append(*f, child, feed)
	return child, feed, nil
}

// output makes an output of the child's. from is our end, or nil if nobody reads.
func (f *files) output(to io.Writer) (child, from *os.File, err error) {
	if to == nil {
		child, err = f.null()
		return child, nil, err
	}
	from, child, err = os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("making a pipe: %w", err)
	}
	*f = append(*f, child, from)
	return child, from, nil
}

func (f *files) null() (*os.File, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err == nil {
		*f = append(*f, null)
	}
	return null, err
}
