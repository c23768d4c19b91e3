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

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// Debian is the name of the kernel that Pull knows how to get.
const Debian = "debian"

// Pull gets the distribution's present cloud kernel and gives it the name. Only "debian" is known: the package
// linux-image-cloud-<architecture>, through the host's apt, which checks its signatures; it is not installed. When the
// store has that very package already, nothing is downloaded.
func (s *Store) Pull(ctx context.Context, name string, report step.Reporter) (model.Kernel, error) {
	if name != Debian {
		return model.Kernel{}, fault.New(fault.Invalid, "there is no source for a kernel %q", name).
			WithHint("`banger kernel pull debian` gets Debian's; `banger kernel import FILE` takes any other.")
	}
	if runtime.GOARCH != "amd64" {
		return model.Kernel{}, fault.New(fault.Unsupported, "guests on %s are not supported, only on amd64", runtime.GOARCH)
	}
	for _, tool := range []string{"apt-get", "apt-cache", "apt-config", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return model.Kernel{}, fault.New(fault.Unsupported, "getting Debian's kernel needs %s, which is not installed", tool).
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
	return s.name(k, name, true)
}

func (s *Store) pull(ctx context.Context, a apt, meta string) (model.Kernel, error) {
	p, deb, k, err := s.fetch(ctx, a, meta)
	if err != nil || deb == "" {
		return k, err
	}
	dir := filepath.Dir(a.dir)
	end := a.report.Track("kernel/unpack", p.file)
	content, err := readDeb(ctx, deb, dir)
	end(err)
	if err != nil {
		return model.Kernel{}, err
	}
	return s.build(ctx, source{image: content.image, config: content.config, tree: content.tree, origin: p.origin()}, a.report)
}

// origin is how the record names the package.
func (p debPackage) origin() string { return p.name + " " + p.version() }

// fetch downloads the package, with the host's lists if they are there and still true, else with new ones. When the store has the
// kernel of that package, it returns that, and no path of a download.
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
		s.log.InfoContext(ctx, "the host's package lists did not serve", "error", err)
	}
	end := a.report.Track("kernel/lists", "fetching package lists")
	updateErr := a.update(ctx)
	end(updateErr)
	if updateErr != nil { // one source that does not answer is enough for that; perhaps the others suffice
		s.log.WarnContext(ctx, "fetching package lists", "error", updateErr)
	}
	p, deb, k, err := s.fetchListed(ctx, a, meta)
	if err != nil && !fresh && updateErr != nil && ctx.Err() == nil { // old lists are better than none
		if prepareErr := a.prepare(false); prepareErr == nil {
			p, deb, k, err = s.fetchListed(ctx, a, meta)
		}
	}
	if err != nil {
		err = fault.New(fault.KindOf(err), "%w", errors.Join(err, updateErr)).
			WithHint("Package %s comes from Debian's main archive: see that it is among apt's sources and that the network is up (`apt-get update`).", meta)
	}
	return p, deb, k, err
}

// fetchListed downloads the package by the lists that apt is set to use.
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

// bySource finds the kernel that was made from a package by the present recipe.
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
