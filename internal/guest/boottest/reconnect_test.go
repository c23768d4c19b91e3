package boottest

import (
	"context"
	"testing"
	"time"

	"banger/internal/guest"
	"banger/internal/guest/proto"
)

// testReconnect ends sessions at bad moments. QEMU serves one connection after the other, and the
// guest may not notice.
func testReconnect(t *testing.T, m *machine) {
	for i := range 6 {
		if i%2 == 1 { // in the middle of a transfer into the guest
			ctx, cancel := context.WithCancel(m.ctx())
			go func() {
				<-time.After(50 * time.Millisecond)
				m.cut()
				cancel()
			}()
			m.Exec(ctx, proto.ExecRequest{Argv: []string{"sh", "-c", "cat > /dev/null"}}, guest.IO{Stdin: zeros{}})
		}
		m.cut()
		start := time.Now()
		m.sh("true")
		t.Logf("reconnected, and a command: %v", time.Since(start))
	}
	m.sh("ps | grep '[c]at' && exit 1 || true") // what the lost sessions began has ended
}
