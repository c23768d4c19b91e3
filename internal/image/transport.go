package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"banger/internal/fault"
)

// Deadlines of a conversation with a registry. The whole of it has none: a slow line may take an hour for a large image.
const (
	dialTimeout     = 15 * time.Second
	headerTimeout   = 60 * time.Second
	stallTimeout    = 60 * time.Second // without a single byte of a layer
	manifestTimeout = 2 * time.Minute  // for all that comes before the layers
)

func newTransport() http.RoundTripper {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: headerTimeout,
	}
}

// guard keeps conversations with registries confidential: plain HTTP goes to loopback addresses only, and only if the registry that was
// asked for is on one, so that no registry can send us to this machine's own services.
type guard struct {
	next     http.RoundTripper
	loopback bool
}

// RoundTrip is http.RoundTripper.
func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !(g.loopback && isLoopback(r.URL.Hostname())) {
		return nil, fault.New(fault.Unsupported, "%s speaks plain HTTP, which is only used on loopback addresses", r.URL.Host).
			WithHint("Give the registry a TLS certificate, or reach it through a tunnel on 127.0.0.1.")
	}
	return g.next.RoundTrip(r)
}

// isLoopback takes addresses and the one name that means one (RFC 6761, section 6.3).
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback() || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// stallGuard cancels the context of a transfer that does not move.
type stallGuard struct {
	r     io.Reader
	timer *time.Timer
}

var errStalled = fmt.Errorf("nothing has come for %v", stallTimeout)

func newStallGuard(ctx context.Context) (context.Context, *stallGuard, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	g := &stallGuard{timer: time.AfterFunc(stallTimeout, func() { cancel(errStalled) })}
	return ctx, g, func() {
		g.timer.Stop()
		cancel(nil)
	}
}

func (g *stallGuard) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	if n > 0 {
		g.timer.Reset(stallTimeout)
	}
	return n, err
}

// registryError says in our words what a registry or the way to it had to complain of.
func registryError(ctx context.Context, ref Ref, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		err = cause
	}
	var known *fault.Error
	var answer *transport.Error
	switch {
	case err == nil, errors.As(err, &known), ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return err
	case errors.As(err, &answer):
		return registryAnswer(ref, answer)
	}
	var here *fs.PathError // our own disk's
	if errors.As(err, &here) {
		return err
	}
	return fault.New(fault.Unavailable, "registry %s: %w", ref.ref.Context().RegistryStr(), err).
		WithHint("Look at the network, at HTTPS_PROXY and at the name of the registry, then try again.")
}

func registryAnswer(ref Ref, answer *transport.Error) error {
	switch registry := ref.ref.Context().RegistryStr(); answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fault.New(fault.Denied, "registry %s does not let us have %s: %w", registry, ref.Name, answer).
			WithHint("If the image exists, log in: docker login %s (banger reads docker's credentials).", registry)
	case http.StatusNotFound:
		return fault.New(fault.NotFound, "registry %s has no %s: %w", registry, ref.Name, answer).
			WithHint("Look at the name and the tag.")
	case http.StatusTooManyRequests:
		return fault.New(fault.Unavailable, "registry %s wants us to wait: %w", registry, answer).
			WithHint("Try again later, or log in for a higher limit: docker login %s", registry)
	default:
		return fault.New(fault.Unavailable, "registry %s: %w", registry, answer)
	}
}
