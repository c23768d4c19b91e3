package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// Debian is the name of the kernel that Pull can get.
const Debian = "debian"

// Pull stores the distribution's present cloud kernel under the name, which must be Debian. It
// downloads the package linux-image-cloud-<architecture> through the host's apt, which checks
// signatures. If the store has that package's kernel, it downloads nothing.
func (s *Store) Pull(ctx context.Context, name string, report step.Reporter) (model.Kernel, error) {
	if name != Debian {
		return model.Kernel{}, fault.New(fault.Invalid, "there is no source for a kernel %q", name).
			WithHint("`banger kernel pull debian` gets Debian's; `banger kernel import FILE` takes any other.")
	}
	if runtime.GOARCH != "amd64" {
		return model.Kernel{}, fault.New(fault.Unsupported, "guests on %s are not supported, only on amd64",
			runtime.GOARCH)
	}
	for _, tool := range []string{"apt-get", "apt-cache", "apt-config", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return model.Kernel{}, fault.New(fault.Unsupported,
				"getting Debian's kernel needs %s, which is not installed", tool).
				WithHint("On a host without apt, give a kernel with `banger kernel import FILE --modules DIR`.")
		}
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return model.Kernel{}, err
	}
	defer unlock()
	dir, release, err := s.tempDir()
	if err != nil {
		return model.Kernel{}, err
	}
	defer release()
	k, err := s.pull(ctx, apt{dir: filepath.Join(dir, "apt"), report: report}, "linux-image-cloud-amd64")
	if err != nil {
		return model.Kernel{}, fmt.Errorf("pulling kernel %s: %w", name, err)
	}
	return s.name(k, name)
}

func (s *Store) pull(ctx context.Context, a apt, meta string) (model.Kernel, error) {
	p, deb, k, err := s.fetch(ctx, a, meta)
	if err != nil || deb == "" {
		return k, err
	}
	dir := filepath.Dir(a.dir)
	end := a.report.Track("kernel/unpack", p.file)
	content, err := readDeb(ctx, deb, dir, disk.NewRoom(s.Room))
	end(err)
	if err != nil {
		return model.Kernel{}, err
	}
	return s.build(ctx, source{image: content.image, config: content.config, tree: content.tree, origin: p.origin()}, a.report)
}

// origin returns the package's name for the record.
func (p debPackage) origin() string { return p.name + " " + p.version() }

// fetch downloads the package by the host's lists, or by new ones if those are missing or outdated.
// If the store has that package's kernel, fetch returns it instead of a path.
func (s *Store) fetch(ctx context.Context, a apt, meta string) (debPackage, string, model.Kernel, error) {
	if err := a.prepare(false); err != nil {
		return debPackage{}, "", model.Kernel{}, err
	}
	fresh := a.hostListsFresh(ctx, time.Now())
	if fresh {
		p, deb, k, err := s.fetchListed(ctx, a, meta)
		if err == nil || ctx.Err() != nil {
			return p, deb, k, err
		}
		s.log.InfoContext(ctx, "the host's package lists do not suffice", "error", err)
	}
	end := a.report.Track("kernel/lists", "fetching package lists")
	updateErr := a.update(ctx)
	end(updateErr)
	// One failed source is enough for this error. The others may suffice.
	if updateErr != nil {
		s.log.WarnContext(ctx, "fetching package lists", "error", updateErr)
	}
	p, deb, k, err := s.fetchListed(ctx, a, meta)
	// Old lists are better than none.
	if err != nil && !fresh && updateErr != nil && ctx.Err() == nil {
		if prepareErr := a.prepare(false); prepareErr == nil {
			p, deb, k, err = s.fetchListed(ctx, a, meta)
		}
	}
	if err != nil {
		err = fault.New(fault.KindOf(err), "%w", errors.Join(err, updateErr)).
			WithHint("Package %s is in Debian's main archive. Check that apt's sources contain it and that the network works (`apt-get update`).", meta)
	}
	return p, deb, k, err
}

// fetchListed downloads the package by the lists in use.
func (s *Store) fetchListed(ctx context.Context, a apt, meta string) (p debPackage, deb string, k model.Kernel, err error) {
	name, err := a.concrete(ctx, meta)
	if err != nil {
		return p, "", k, err
	}
	if p, err = a.offer(ctx, name); err != nil {
		return p, "", k, err
	}
	if k, ok := s.bySource(p.origin()); ok {
		return p, "", k, nil
	}
	end := a.report.Track("kernel/download", p.file)
	deb, err = a.download(ctx, p)
	end(err)
	return p, deb, k, err
}

// bySource finds the kernel that the present recipe made from a package.
func (s *Store) bySource(origin string) (model.Kernel, bool) {
	records, err := s.records()
	if err != nil {
		return model.Kernel{}, false
	}
	for _, r := range records {
		if r.Source == origin && r.Recipe == recipe {
			if _, err := os.Stat(r.Vmlinux); err == nil {
				return r.Kernel, true
			}
		}
	}
	return model.Kernel{}, false
}
