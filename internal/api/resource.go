package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"banger/internal/model"
	"banger/internal/step"
)

// resource is a collection of things in the API, such as the VMs below /v1/vms. The functions of
// this file are the shapes of requests that several collections share.
type resource struct {
	t    *transport
	name string
}

// all returns the target of an operation on the collection; verb may be empty.
func (r resource) all(verb string, opts options) string {
	t := "/v1/" + r.name
	if verb != "" {
		t += "/" + verb
	}
	return t + opts.encode()
}

// one returns the target of an operation on one thing; verb may be empty. The name may hold any
// character.
func (r resource) one(ref, verb string, opts options) string {
	escaped := url.PathEscape(ref)
	if strings.Trim(ref, ".") == "" { // "." and ".." have a meaning in a path
		escaped = strings.ReplaceAll(ref, ".", "%2E")
	}
	t := "/v1/" + r.name + "/" + escaped
	if verb != "" {
		t += "/" + verb
	}
	return t + opts.encode()
}

// options is the query of a request. Its methods leave out values that are unset.
type options url.Values

func (o options) text(name, value string) options {
	if value != "" {
		url.Values(o).Set(name, value)
	}
	return o
}

func (o options) flag(name string, on bool) options {
	if on {
		url.Values(o).Set(name, "true")
	}
	return o
}

func (o options) number(name string, n int) options {
	if n > 0 {
		url.Values(o).Set(name, strconv.Itoa(n))
	}
	return o
}

func (o options) encode() string {
	if len(o) == 0 {
		return ""
	}
	return "?" + url.Values(o).Encode()
}

// list returns all things of a collection.
func list[T any](ctx context.Context, r resource) ([]T, error) {
	return ask[[]T](ctx, r.t, query{method: http.MethodGet, target: r.all("", nil)})
}

// get returns one thing, or with a verb a fact about the thing.
func get[T any](ctx context.Context, r resource, ref, verb string) (T, error) {
	return ask[T](ctx, r.t, query{method: http.MethodGet, target: r.one(ref, verb, nil)})
}

// act performs an operation on one thing. It sends in as JSON unless in is nil.
func act[T any](ctx context.Context, r resource, ref, verb string, in any, report step.Reporter) (T, error) {
	return ask[T](ctx, r.t, query{method: http.MethodPost, target: r.one(ref, verb, nil), in: in, report: report})
}

// remove deletes a thing and returns what it was.
func remove[T any](ctx context.Context, r resource, ref string) (T, error) {
	return ask[T](ctx, r.t, query{method: http.MethodDelete, target: r.one(ref, "", nil)})
}

// create makes something from a description. The verb says how and may be empty.
func create[T any](ctx context.Context, r resource, verb string, in any, report step.Reporter) (T, error) {
	return ask[T](ctx, r.t, query{method: http.MethodPost, target: r.all(verb, nil), in: in, report: report})
}

// prune deletes the things of a collection that nothing needs.
func prune(ctx context.Context, r resource, opts options) (model.Pruned, error) {
	return ask[model.Pruned](ctx, r.t, query{method: http.MethodPost, target: r.all("prune", opts)})
}

// mediaBytes is the media type of content whose format the daemon recognises by itself.
const mediaBytes = "application/octet-stream"

// upload is the request of an import: it makes a thing of the content.
func upload[T any](ctx context.Context, r resource, opts options, content io.Reader, report step.Reporter) (T, error) {
	return ask[T](ctx, r.t, query{
		method: http.MethodPost, target: r.all("import", opts), in: content, media: mediaBytes, report: report,
	})
}
