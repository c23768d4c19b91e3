// Package bundle writes one file for a bug report: what banger, its daemon and its VMs say about
// themselves.
//
// A part is one file of the bundle. A part that cannot be had is listed as missing, with the
// reason; it fails nothing. Every part is bounded, and every text passes the scrubber (scrub.go),
// which removes environment values, credentials and keys. Parts that may hold a VM's secrets are
// left out if the VMs' records, which say what is secret, cannot be read.
package bundle

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/regular"
)

// Bounds of a bundle.
const (
	maxLog      = 2 << 20          // bytes of the daemon's log
	maxVMLog    = 256 << 10        // bytes of each log of a VM
	maxVMs      = 32               // VMs whose logs are taken, the newest ones
	maxVMLines  = 4000             // lines that the daemon is asked for
	partTimeout = 20 * time.Second // for the daemon to answer one question
)

// Source is what a bundle is made from.
type Source struct {
	Layout    paths.Layout
	LookupEnv func(string) (string, bool)
	Client    *api.Client // nil if the daemon does not run
	Absent    error       // why Client is nil
	Version   api.Version // of this program
	Now       time.Time

	Doctor func(context.Context) any // the checks of the host
	Config func() (any, error)       // the effective configuration's rows
}

// Entry says what a bundle holds, or why it does not.
type Entry struct {
	Name    string      `json:"name"`
	Size    model.Bytes `json:"size"`
	Missing string      `json:"missing,omitempty"` // why the part is not in the bundle
}

// builder collects the parts of one bundle.
type builder struct {
	src     Source
	scrub   *scrubber // nil until the records were read
	vms     []model.VM
	parts   []part
	entries []Entry
}

type part struct {
	name string
	data []byte
}

// Write writes a bundle as tar.gz and returns what is in it and what is missing.
func Write(ctx context.Context, w io.Writer, src Source) ([]Entry, error) {
	b := &builder{src: src}
	b.records(ctx)
	b.host(ctx)
	b.daemon(ctx)
	b.logs(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	slices.SortFunc(b.entries, func(x, y Entry) int { return cmp.Compare(x.Name, y.Name) })
	contents, err := json.MarshalIndent(b.entries, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("listing the bundle's parts: %w", err)
	}
	b.parts = append(b.parts, part{"contents.json", append(contents, '\n')})
	if err := b.write(w); err != nil {
		return nil, fmt.Errorf("writing the bundle: %w", err)
	}
	return b.entries, nil
}

// write writes the parts below one directory.
func (b *builder) write(w io.Writer) error {
	gz := gzip.NewWriter(w)
	tw := tar.NewWriter(gz)
	dir := "banger-bundle-" + b.src.Now.Format("20060102-150405")
	for _, p := range b.parts {
		hdr := &tar.Header{
			Typeflag: tar.TypeReg, Name: path.Join(dir, p.name), Size: int64(len(p.data)), Mode: 0o600,
			ModTime: b.src.Now, Format: tar.FormatPAX,
		}
		if err := tw.WriteHeader(hdr); err != nil {
			return err
		}
		if _, err := tw.Write(p.data); err != nil {
			return err
		}
	}
	return errors.Join(tw.Close(), gz.Close())
}

// add adds a part's text, scrubbed, or notes why it is missing.
func (b *builder) add(name string, data []byte, err error) {
	if err != nil {
		b.entries = append(b.entries, Entry{Name: name, Missing: b.scrub.text(err.Error())})
		return
	}
	data = []byte(b.scrub.text(string(data)))
	b.parts = append(b.parts, part{name, data})
	b.entries = append(b.entries, Entry{Name: name, Size: model.Bytes(len(data))})
}

// addJSON adds a value as JSON.
func (b *builder) addJSON(name string, v any, err error) {
	var data []byte
	if err == nil {
		data, err = json.MarshalIndent(v, "", "  ")
	}
	b.add(name, append(data, '\n'), err)
}

// ask asks the daemon for a part: the group names the client's operations of which f is one.
func ask[G, T any](
	ctx context.Context, b *builder, group func(*api.Client) G, f func(G, context.Context) (T, error),
) (out T, err error) {
	if b.src.Client == nil {
		return out, b.src.Absent
	}
	ctx, cancel := context.WithTimeoutCause(ctx, partTimeout,
		fault.New(fault.Unavailable, "bangerd gave no answer for %v", partTimeout))
	defer cancel()
	return f(group(b.src.Client), ctx)
}

// hidden stands for a command: its arguments may hold secrets in any form.
func hidden(argv []string) []string {
	if len(argv) == 0 {
		return nil
	}
	return []string{removed}
}

// records reads the records first: what they hold as secrets is removed from all parts.
func (b *builder) records(ctx context.Context) {
	vms, vmsErr := ask(ctx, b, (*api.Client).VMs, api.VMs.List)
	images, imagesErr := ask(ctx, b, (*api.Client).Images, api.Images.List)
	b.scrub = newScrubber(b.src.Layout, b.src.LookupEnv)
	for i, v := range vms {
		b.scrub.addEnv(v.Spec.Env)
		b.scrub.addKey(b.src.Layout.VM(v.ID).HostKey())
		vms[i].Spec.Env = namesOnly(v.Spec.Env)
		if v.Runtime != nil {
			run := *v.Runtime
			run.State = nil // opaque, so nobody could look for secrets in it
			if run.Spec != nil {
				spec := *run.Spec
				b.scrub.addEnv(spec.Env)
				spec.Env = namesOnly(spec.Env)
				run.Spec = &spec
			}
			vms[i].Runtime = &run
		}
	}
	for i, image := range images {
		for j, kv := range image.Config.Env {
			name, value, _ := strings.Cut(kv, "=")
			b.scrub.add(value)
			images[i].Config.Env[j] = name + "=" + removed
		}
		images[i].Config.Entrypoint = hidden(image.Config.Entrypoint)
		images[i].Config.Cmd = hidden(image.Config.Cmd)
	}
	b.scrub.seal()
	if vmsErr == nil {
		b.vms = vms
	}
	b.addJSON("records/vms.json", vms, vmsErr)
	b.addJSON("records/images.json", images, imagesErr)
	kernels, err := ask(ctx, b, (*api.Client).Kernels, api.Kernels.List)
	b.addJSON("records/kernels.json", kernels, err)
	snapshots, err := ask(ctx, b, (*api.Client).Snapshots, api.Snapshots.List)
	b.addJSON("records/snapshots.json", snapshots, err)
	templates, err := ask(ctx, b, (*api.Client).Templates, api.Templates.List)
	b.addJSON("records/templates.json", templates, err)
}

// namesOnly keeps the names of an environment.
func namesOnly(env map[string]string) map[string]string {
	out := map[string]string{}
	for name := range env {
		out[name] = removed
	}
	return out
}

// host adds what this program finds out by itself.
func (b *builder) host(ctx context.Context) {
	daemon, err := ask(ctx, b, (*api.Client).Daemon, api.Daemon.Version)
	versions := map[string]any{"banger": b.src.Version, "os": runtime.GOOS, "arch": runtime.GOARCH, "kernel": hostKernel()}
	if err == nil {
		versions["bangerd"] = daemon
	}
	b.addJSON("versions.json", versions, nil)
	b.addJSON("doctor.json", b.src.Doctor(ctx), nil)
	rows, err := b.src.Config()
	b.addJSON("config.json", rows, err)
}

// hostKernel is what uname(2) says of the host's kernel.
func hostKernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Version[:])
}

// daemon adds what the daemon says of itself.
func (b *builder) daemon(ctx context.Context) {
	status, err := ask(ctx, b, (*api.Client).Daemon, api.Daemon.Status)
	b.addJSON("status.json", status, err)
	usage, err := ask(ctx, b, (*api.Client).Daemon, api.Daemon.Usage)
	b.addJSON("usage.json", usage, err)
	metrics, err := ask(ctx, b, (*api.Client).Daemon, api.Daemon.Metrics)
	b.add("metrics.txt", metrics, err)
	goroutines, err := ask(ctx, b, (*api.Client).Daemon, api.Daemon.Goroutines)
	b.add("goroutines.txt", goroutines, err)
}

// logs adds the daemon's log, which needs no daemon, and those of the newest VMs, which need their
// records.
func (b *builder) logs(ctx context.Context) {
	data, err := b.daemonLog()
	b.add("bangerd.log", data, err)
	if b.vms == nil {
		err := b.src.Absent
		if err == nil {
			err = errors.New("the records of the VMs could not be read")
		}
		b.add("vms", nil, fmt.Errorf("%w; without the VMs' records their secrets cannot be found in their logs", err))
		return
	}
	slices.SortFunc(b.vms, func(x, y model.VM) int { return y.Created.Compare(x.Created) })
	for i, v := range b.vms {
		if i == maxVMs {
			b.add("vms/...", nil, fmt.Errorf("the logs of %d older VMs are left out", len(b.vms)-maxVMs))
			return
		}
		for _, source := range []api.LogSource{api.LogConsole, api.LogVMM} {
			name := path.Join("vms", v.ID, string(source)+".log")
			data, err := ask(ctx, b, (*api.Client).VMs, func(vms api.VMs, ctx context.Context) ([]byte, error) {
				return b.vmLog(ctx, vms, v.ID, source)
			})
			if fault.KindOf(err) == fault.NotFound {
				continue // it has never run
			}
			b.add(name, data, err)
		}
	}
}

// oldLog ends the name of a log's older half.
const oldLog = ".1"

// daemonLog reads the end of the daemon's log.
func (b *builder) daemonLog() ([]byte, error) {
	path := b.src.Layout.DaemonLog()
	f, err := regular.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the daemon's log: %w", err)
	}
	defer f.Close()
	old, err := regular.Open(path + oldLog)
	if err != nil { // the log is short
		return b.tail(f, maxLog)
	}
	defer old.Close()
	return b.tail(io.MultiReader(old, f), maxLog)
}

func (b *builder) vmLog(ctx context.Context, vms api.VMs, id string, source api.LogSource) ([]byte, error) {
	body, err := vms.Logs(ctx, id, api.VMLogs{Source: source, Tail: maxVMLines})
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return b.tail(body, maxVMLog)
}

// tail keeps the last bytes of a log, from the beginning of a line on: a cut within a secret would
// leave a part of it that nobody recognises.
func (b *builder) tail(r io.Reader, limit int) ([]byte, error) {
	var kept []byte
	cut := false
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		kept = append(kept, buf[:n]...)
		if len(kept) > 2*limit {
			kept, cut = slices.Clone(kept[len(kept)-limit:]), true
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading a log: %w", err)
		}
	}
	if len(kept) > limit {
		kept, cut = kept[len(kept)-limit:], true
	}
	if !cut {
		return kept, nil
	}
	if i := bytes.IndexByte(kept, '\n'); i >= 0 {
		return kept[i+1:], nil
	}
	return kept[min(len(kept), b.scrub.longest):], nil
}
