package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// answer makes a handler of a function whose result is sent as JSON. A nil result is 204 No
// Content.
func answer(f func(r *http.Request) (any, error)) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		out, err := f(r)
		if err != nil {
			return err
		}
		return writeResult(w, out)
	}
}

// answerTo is answer for a function that takes the request's JSON body.
func answerTo[T any](f func(r *http.Request, in T) (any, error)) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		in, err := decode[T](w, r)
		if err != nil {
			return err
		}
		out, err := f(r, in)
		if err != nil {
			return err
		}
		return writeResult(w, out)
	}
}

// taking makes an operation of a function that takes the request's JSON body.
func taking[T any](f func(r *http.Request, in T, report step.Reporter) (any, error)) operation {
	return func(w http.ResponseWriter, r *http.Request, report step.Reporter) (any, error) {
		in, err := decode[T](w, r)
		if err != nil {
			return nil, err
		}
		return f(r, in, report)
	}
}

// refOf returns the name in the path of a request about one thing.
func refOf(r *http.Request) string { return r.PathValue("ref") }

// orEmpty makes sure that a list is never null in JSON.
func orEmpty[T any](all []T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	if all == nil {
		all = []T{}
	}
	return all, nil
}

// pruned makes sure that the list of what was removed is never null in JSON.
func pruned(p model.Pruned, err error) (any, error) {
	if p.Removed == nil {
		p.Removed = []string{}
	}
	return p, err
}

// forked makes sure that the children are never null in JSON.
func forked(f model.Forked, err error) (any, error) {
	if f.Children == nil {
		f.Children = []model.Child{}
	}
	return f, err
}

func required(field, value string) error {
	if value == "" {
		return fault.New(fault.Invalid, "field %q is missing", field)
	}
	return nil
}

func writeResult(w http.ResponseWriter, out any) error {
	if out == nil {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return writeJSON(w, http.StatusOK, "application/json", out)
}

func writeJSON(w http.ResponseWriter, status int, media string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	return writeBody(w, status, media, append(data, '\n'))
}

func writeBody(w http.ResponseWriter, status int, media string, data []byte) error {
	// Only foreign connections have no deadlines, and those need no bound.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(replyTimeout))
	w.Header().Set("Content-Type", media)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	return nil
}

// decode reads the JSON body of a request. An empty body is the zero value. Unknown fields are
// refused, so that a mistyped "memroy" does not make a VM of the default size.
func decode[T any](w http.ResponseWriter, r *http.Request) (T, error) {
	return decodeUpTo[T](w, r, maxBody)
}

// decodeUpTo is decode with another bound, bytes.
func decodeUpTo[T any](w http.ResponseWriter, r *http.Request, limit int64) (T, error) {
	var in T
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout))
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	_ = rc.SetReadDeadline(time.Time{}) // net/http keeps reading to notice the client's end
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return in, fault.New(fault.Invalid, "the request's body is larger than %d bytes", limit)
	case err != nil:
		return in, fmt.Errorf("reading the request's body: %w", err)
	case len(data) == 0:
		return in, nil
	}
	if media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); media != "application/json" {
		return in, fault.New(fault.Invalid, "the request's body must be application/json, not %.100q", media)
	}
	return in, decodeStrict(data, &in)
}

// decodeStrict decodes one JSON value. Its errors name the wrong field.
func decodeStrict(data []byte, into any) error {
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is more after the JSON value")
		}
	}
	if err == nil {
		return nil
	}
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) {
		return fault.New(fault.Invalid, "field %q: a %s does not fit there", wrongType.Field, wrongType.Value)
	}
	return fault.New(fault.Invalid, "the request: %s", strings.TrimPrefix(err.Error(), "json: "))
}

// params holds the query parameters of a request. Its err is the first error found.
type params struct {
	values url.Values
	err    error
}

// queryOf reads a query in which each known parameter may occur once, and no other.
func queryOf(r *http.Request, known ...string) *params {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return &params{err: fault.New(fault.Invalid, "the query: %w", err)}
	}
	for name, all := range values {
		if !slices.Contains(known, name) {
			return &params{err: fault.New(fault.Invalid, "unknown query parameter %.100q", name)}
		}
		if len(all) > 1 {
			return &params{err: fault.New(fault.Invalid, "query parameter %s is there %d times", name, len(all))}
		}
	}
	return &params{values: values}
}

func (p *params) text(name string) string { return p.values.Get(name) }

func (p *params) flag(name string) bool {
	text := p.text(name)
	if text == "" || p.err != nil {
		return false
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		p.err = fault.New(fault.Invalid, "query parameter %s: %.100q is neither true nor false", name, text)
	}
	return v
}

// number reads a whole number from low to high. It returns 0 for a missing parameter.
func (p *params) number(name string, low, high int) int {
	text := p.text(name)
	if text == "" || p.err != nil {
		return 0
	}
	v, err := strconv.Atoi(text)
	if err != nil || v < low || v > high {
		p.err = fault.New(fault.Invalid, "query parameter %s: %.100q is not a number from %d to %d", name, text, low, high)
	}
	return v
}
