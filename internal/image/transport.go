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

// Deadlines for a registry. A whole download has none, because a large image on a slow line may
// take an hour.
const (
	dialTimeout     = 15 * time.Second
	headerTimeout   = 60 * time.Second
	stallTimeout    = 60 * time.Second // without a byte of a layer
	manifestTimeout = 2 * time.Minute  // for everything before the layers
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

		MaxResponseHeaderBytes: 256 << 10,
	}
}

// guard protects the traffic with registries. It allows plain HTTP only to loopback addresses, and
// only if the registry is on one, so that no registry redirects banger to local services. Every
// answer is a bounded document, unless it is a layer that was asked for by withLayer.
type guard struct {
	next     http.RoundTripper
	loopback bool
}

// RoundTrip is http.RoundTripper.
func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !(g.loopback && isLoopback(r.URL.Hostname())) {
		return nil, fault.New(fault.Unsupported, "%s speaks plain HTTP, which is only used on loopback addresses",
			r.URL.Host).
			WithHint("Give the registry a TLS certificate, or reach it through a tunnel on 127.0.0.1.")
	}
	resp, err := g.next.RoundTrip(r)
	if err != nil || carriesLayer(r, resp) {
		return resp, err
	}
	resp.Body = documentBody{&document{r: resp.Body, what: "the answer of " + clip(r.URL.Host)}, resp.Body}
	return resp, nil
}

// documentBody is the body of an answer that is read into memory.
type documentBody struct {
	io.Reader
	io.Closer
}

type layerKey struct{}

// withLayer allows answers without a bound in requests for blobs. The caller bounds what it reads.
func withLayer(ctx context.Context) context.Context { return context.WithValue(ctx, layerKey{}, true) }

// carriesLayer reports whether an answer is a layer. Requests for tokens and redirects have the
// context of the request that led to them, so the first request must be for a blob.
func carriesLayer(r *http.Request, resp *http.Response) bool {
	first := r
	for first.Response != nil && first.Response.Request != nil {
		first = first.Response.Request
	}
	return r.Context().Value(layerKey{}) != nil && resp.StatusCode == http.StatusOK &&
		strings.HasPrefix(first.URL.Path, "/v2/") && strings.Contains(first.URL.Path, "/blobs/")
}

// isLoopback accepts addresses and the name localhost (RFC 6761, section 6.3).
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback() || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// stallGuard cancels the context of a transfer without progress.
type stallGuard struct {
	r     io.Reader
	timer *time.Timer
}

var errStalled = fmt.Errorf("no data arrived for %v", stallTimeout)

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

// registryError describes an error of a registry, or of the connection to it.
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
	var here *fs.PathError // an error of this host's disk
	if errors.As(err, &here) {
		return err
	}
	return fault.New(fault.Unavailable, "registry %s: %w", ref.ref.Context().RegistryStr(), err).
		WithHint("Check the network, HTTPS_PROXY and the name of the registry. Then try again.")
}

func registryAnswer(ref Ref, answer *transport.Error) error {
	switch registry := ref.ref.Context().RegistryStr(); answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fault.New(fault.Denied, "registry %s denies access to %s: %w", registry, ref.Name, answer).
			WithHint("If the image exists, log in: docker login %s (banger reads docker's credentials).", registry)
	case http.StatusNotFound:
		return fault.New(fault.NotFound, "registry %s has no %s: %w", registry, ref.Name, answer).
			WithHint("Check the name and the tag.")
	case http.StatusTooManyRequests:
		return fault.New(fault.Unavailable, "registry %s limits the rate of requests: %w", registry, answer).
			WithHint("Try again later, or log in for a higher limit: docker login %s", registry)
	default:
		return fault.New(fault.Unavailable, "registry %s: %w", registry, answer)
	}
}
