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
)

// answer makes a handler of a function whose result is JSON; nil is 204 No Content.
func answer(f func(r *http.Request) (any, error)) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		out, err := f(r)
		if err != nil {
			return err
		}
		return writeResult(w, out)
	}
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
	// A connection that cannot have deadlines is not one of ours; then there is nothing to bound.
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

// decode reads the JSON body of a request. No body is the zero value. Fields that nobody knows are refused: a mistyped "memroy" must not
// make a VM of the default size.
func decode[T any](w http.ResponseWriter, r *http.Request) (T, error) {
	return decodeUpTo[T](w, r, maxBody)
}

// decodeUpTo is decode with a bound of its own, bytes.
func decodeUpTo[T any](w http.ResponseWriter, r *http.Request, limit int64) (T, error) {
	var in T
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout))
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	_ = rc.SetReadDeadline(time.Time{}) // what is read in the background to notice the client's end has none
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

// decodeStrict decodes one JSON value, and names what is wrong.
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

// params are the query parameters of a request, read one by one. The first thing that is wrong is kept.
type params struct {
	values url.Values
	err    error
}

// queryOf reads the query, in which only the known parameters may be, once each.
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

// number reads a whole number from low to high; absent it is 0.
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
