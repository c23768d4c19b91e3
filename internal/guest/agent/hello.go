package agent

import (
	"fmt"
	"net/http"
	"runtime"

	"golang.org/x/sys/unix"

	"banger/internal/guest/proto"
)

// helloService reports who answers and how far the machine has come.
type helloService struct {
	version   string
	beside    bool // whether this process serves beside the image's init
	life      *life
	marks     *marks
	rehearsal *rehearsal
}

// hello answers GET /v1/hello.
func (s *helloService) hello(r *http.Request) (any, error) {
	// Parsing the query would be more code that the emulator has to translate.
	if r.URL.RawQuery == proto.Rehearse && noopProgram != "" && runtime.NumCPU() > 1 {
		go s.rehearsal.rehearse()
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fmt.Errorf("reading the kernel's name: %w", err)
	}
	now, forks := s.life.state() // before the marks: a machine that is assumed has the mark
	return proto.Hello{
		Generation: proto.Generation,
		Version:    s.version,
		Kernel:     unix.ByteSliceToString(uts.Release[:]),
		Assumed:    now == assumed || now == frozen,
		Init:       s.beside,
		Frozen:     now == frozen,
		Forks:      forks,
		Uptime:     sinceBoot(),
		Marks:      s.marks.all(),
	}, nil
}
