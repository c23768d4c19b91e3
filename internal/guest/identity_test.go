package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/channel"
	"banger/internal/guest/proto"
	"banger/internal/requestid"
)

// oldConn makes an agent's echo look as one of generation 1.
type oldConn struct{ net.Conn }

func (c oldConn) Write(p []byte) (int, error) {
	if _, err := c.Conn.Write(bytes.Replace(p, []byte("BANGER/2 "), []byte("BANGER/1 "), 1)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// assume1Agent is the part of generation 1's Assume and Thaw that changed, as that agent declares
// it.
type assume1Agent struct {
	Network *struct {
		MAC     string   `json:"mac,omitempty"`
		Address string   `json:"address"`
		Gateway string   `json:"gateway"`
		DNS     []string `json:"dns"`
	} `json:"network,omitempty"`
	Networks json.RawMessage `json:"networks"`
	Hostname string          `json:"hostname"`
	Entropy  []byte          `json:"entropy"`
}

// newOldClient returns a client of an agent of generation 1. It appends to bodies what that agent
// receives.
func newOldClient(t *testing.T, bodies *[]assume1Agent) *Client {
	f := &fake{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/hello" {
			answer(200, proto.Hello{Generation: 1})(w, r)
			return
		}
		var got assume1Agent
		json.NewDecoder(r.Body).Decode(&got)
		*bodies = append(*bodies, got)
		answer(200, proto.Assumed{})(w, r)
	})}
	c := New(func(ctx context.Context) (net.Conn, error) {
		host, guest := net.Pipe()
		go f.serve(oldConn{guest})
		return host, nil
	}, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { c.Close(); f.die() })
	return c
}

// TestOldGeneration: a snapshot of the previous build holds an agent of generation 1. It is thawed
// and gets an identity.
func TestOldGeneration(t *testing.T) {
	var got []assume1Agent
	c := newOldClient(t, &got)
	if h, err := c.Hello(deadline(t, 20*time.Second)); err != nil || h.Generation != 1 {
		t.Fatalf("the old agent's hello is %+v, %v", h, err)
	}
	card := proto.Network{Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: []string{"10.0.2.3"}}
	doc := proto.Assume{Hostname: "vm", Entropy: make([]byte, 32), Networks: []proto.Network{card}}
	if _, err := c.Assume(deadline(t, 20*time.Second), doc); err != nil {
		t.Fatalf("giving the old agent an identity: %v", err)
	}
	if n := got[0].Network; n == nil || n.Address != card.Address || n.Gateway != card.Gateway || len(n.DNS) != 1 {
		t.Errorf("the old agent reads the network %+v, want %+v", n, card)
	}
	if got[0].Networks != nil {
		t.Errorf("the old agent gets the list %s, want none", got[0].Networks)
	}
	if got[0].Hostname != "vm" || len(got[0].Entropy) != 32 {
		t.Errorf("the old agent does not get the rest of the document: %+v", got[0])
	}
	doc.Networks = nil
	if _, err := c.Assume(deadline(t, 20*time.Second), doc); err != nil || got[1].Network != nil {
		t.Errorf("without a card the old agent reads %+v, %v; want none", got[1].Network, err)
	}
	thaw := proto.Thaw{Entropy: make([]byte, 32), Time: time.Now(), Networks: []proto.Network{card}}
	if err := c.Thaw(deadline(t, 20*time.Second), thaw); err != nil || len(got[2].Entropy) != 32 {
		t.Errorf("thawing the old agent: %v, it reads %+v", err, got[2])
	}
	doc.Networks = []proto.Network{card, card}
	if _, err := c.Assume(deadline(t, 20*time.Second), doc); fault.KindOf(err) != fault.Unsupported {
		t.Errorf("two cards for the old agent returned %v, want fault.Unsupported", err)
	}
}

// TestNewGeneration: a present agent gets the list and no other field.
func TestNewGeneration(t *testing.T) {
	var got []assume1Agent
	c, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		var a assume1Agent
		json.NewDecoder(r.Body).Decode(&a)
		got = append(got, a)
		answer(200, proto.Assumed{})(w, r)
	})
	doc := proto.Assume{Networks: []proto.Network{{Address: "10.0.0.1/8"}, {Address: "10.0.0.2/8", Card: proto.Card{Index: 1}}}}
	if _, err := c.Assume(deadline(t, 20*time.Second), doc); err != nil {
		t.Fatal(err)
	}
	if got[0].Network != nil || strings.Count(string(got[0].Networks), "address") != 2 {
		t.Errorf("the agent reads %+v and the list %s, want two networks in the list", got[0].Network, got[0].Networks)
	}
}

// TestRequestID: the agent gets the id of the API request, if it is one.
func TestRequestID(t *testing.T) {
	var got []string
	c, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header.Get(proto.HeaderRequestID))
		answer(200, proto.Hello{Generation: 1})(w, r)
	})
	for _, id := range []string{"r-1", "", "no id\nat all"} {
		if _, err := c.Hello(requestid.With(deadline(t, 20*time.Second), id)); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"r-1", "", ""}; strings.Join(got, ",") != strings.Join(want, ",") {
		t.Errorf("the agent got the ids %q, want %q", got, want)
	}
}

// TestServices: the guest reaches a registered service in each session, and no other.
func TestServices(t *testing.T) {
	f := &fake{handler: http.HandlerFunc(answer(200, proto.Hello{Generation: 2}))}
	c := New(f.dial, slog.New(slog.DiscardHandler),
		WithService(proto.ServiceSSHAgent, func(_ context.Context, conn net.Conn) { io.Copy(conn, conn) }))
	t.Cleanup(func() { c.Close(); f.die() })
	for range 2 {
		if _, err := c.Hello(deadline(t, 20*time.Second)); err != nil {
			t.Fatal(err)
		}
		agent := f.newest()
		conn, err := agent.OpenService(deadline(t, 20*time.Second), proto.ServiceSSHAgent)
		if err != nil {
			t.Fatalf("opening a registered service: %v", err)
		}
		io.WriteString(conn, "ping")
		if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
			t.Errorf("talking to a registered service: %v", err)
		}
		if _, err := agent.OpenService(deadline(t, 20*time.Second), "other"); fault.KindOf(err) != fault.Denied {
			t.Errorf("opening a service that is not registered returned %v, want fault.Denied", err)
		}
		c.Redial()
	}
}

// newest returns the agent's end of the last session.
func (f *fake) newest() *channel.Session {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sessions[len(f.sessions)-1]
}

// TestBoundHooks: the host does not know when hooks began. It asks to end them once they have run
// for all of their time, again and again while the assume is under way.
func TestBoundHooks(t *testing.T) {
	const nominal = 50 * time.Millisecond
	asked := make(chan string)
	c, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case asked <- r.URL.Path + " " + r.URL.Query().Get("after"):
		case <-r.Context().Done():
		}
		answer(200, struct{}{})(w, r)
	})
	stop := boundHooks(deadline(t, time.Minute), c, nominal)
	defer stop()
	for range 2 {
		path, text, _ := strings.Cut(<-asked, " ")
		after, err := time.ParseDuration(text)
		if path != "/v1/endhooks" || err != nil || after < nominal {
			t.Errorf("it asks %s after %q, want at least %v", path, text, nominal)
		}
	}
}
