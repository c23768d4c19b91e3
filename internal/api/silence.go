package api

import (
	"context"
	"net/http"
	"time"
)

// Times until a daemon counts as silent. An answer may take long, so a second connection asks for
// the version, which every daemon that lives answers at once.
const (
	silentAfter = time.Second
	silentProbe = time.Second
)

// OnSilence sets what is called, at most once, if the daemon does not answer. The client continues
// to wait. pid is the daemon's process; 0: not known. Call it before the first request.
func (c *Client) OnSilence(say func(pid int)) { c.t.silent = say }

// listen notices that the daemon is silent until the caller calls over.
func (t *transport) listen(ctx context.Context) (over func()) {
	if t.silent == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(silentAfter, func() {
		if pid, silent := t.probe(ctx); silent && ctx.Err() == nil {
			t.once.Do(func() { t.silent(pid) })
		}
	})
	return func() {
		timer.Stop()
		cancel()
	}
}

// probe reports whether the daemon accepts a connection, but does not answer.
func (t *transport) probe(ctx context.Context) (pid int, silent bool) {
	ctx, cancel := context.WithTimeout(ctx, silentProbe)
	defer cancel()
	conn, err := dialDaemon(ctx, t.socket)
	if err != nil {
		return 0, ctx.Err() != nil
	}
	defer conn.Close()
	if peer, err := PeerOf(conn); err == nil {
		pid = peer.PID
	}
	other := newTransport(t.socket)
	other.first = conn
	defer other.close()
	err = other.call(ctx, query{method: http.MethodGet, target: "/v1/version"}, nil)
	return pid, err != nil && ctx.Err() != nil
}
