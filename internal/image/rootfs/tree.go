// Package rootfs makes one ext4 file from the layers of an image, or from a single archive. It
// merges layers in memory and unpacks nothing on the host. Its input is hostile: every size is
// bounded by Limits, and every path stays in the tree. docs/internals/images.md explains the steps.
package rootfs

import (
	"archive/tar"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"banger/internal/model"
)

// Tree is the file system of an image's layers, in memory and without contents. It resolves paths
// as a kernel with this root does. So no link leads out of it.
type Tree struct {
	root    *inode
	limits  Limits
	skip    func(path string) bool // reports which absolute paths to leave out; may be nil
	entries int                    // archive entries so far
	inodes  int                    // inodes made so far, with replaced ones
	size    int64                  // bytes of all files so far, with replaced ones
	work    int                    // cost of resolving paths so far; see maxWork
	memory  model.Bytes            // charged so far, with what was replaced; see Limits.Tree
	// pending are hard links of the present layer to later entries.
	pending []pendingLink
	// made are directories that an entry required; see takeMade.
	made []*inode
}

// inode is a file of any type. Names with the same inode are hard links.
type inode struct {
	typ          byte // tar.TypeReg, TypeDir, TypeSymlink, TypeChar, TypeBlock, TypeFifo
	mode         int64
	uid, gid     int
	mtime        time.Time
	target       string // of a symbolic link
	major, minor int64
	xattrs       []xattr

	size int64 // of a regular file
	at   place // of a regular file's content

	parent *inode // directory of its first name; the root is its own parent
	name   string // its first name
	names  int    // number of names; counted by take

	// Only for directories:
	children map[string]entry
	length   int // bytes of its path
	opaque   int // the last layer that hid lower layers here
	touched  int // the last layer with an entry for it or in it
}

// xattr is an extended attribute.
type xattr struct{ name, value string }

// entry is a name in a directory.
type entry struct {
	*inode
	layer int // the layer of this name
}

// last returns the last layer with an entry for the name or in it.
func (e entry) last() int {
	if e.isDir() {
		return e.touched
	}
	return e.layer
}

// place is a place in the layers: the layer (from 1) and the entry in it.
type place struct{ layer, entry int }

type pendingLink struct {
	dir    *inode
	name   string
	target string // cleaned, absolute
}

func newTree(limits Limits) *Tree {
	root := &inode{typ: tar.TypeDir, mode: 0o755, children: map[string]entry{}}
	root.parent = root
	return &Tree{root: root, limits: limits}
}

func (n *inode) isDir() bool { return n.typ == tar.TypeDir }

// path returns the path of the inode's first name, without a leading slash; "" for the root.
func (n *inode) path() string {
	if n.parent == n {
		return ""
	}
	return join(n.parent, n.name)
}

func join(dir *inode, name string) string {
	parts := []string{name}
	for ; dir.parent != dir; dir = dir.parent {
		parts = append(parts, dir.name)
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}

// walk follows a path from dir and all symbolic links in it. If layer is not 0, it makes missing
// directories for that layer. Otherwise it returns nil for a missing file.
func (t *Tree) walk(dir *inode, rest string, layer int) (*inode, error) {
	at, hops := dir, 0
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		if t.work++; t.work > maxWork {
			return nil, invalid("the archive's paths and symbolic links take too long to follow")
		}
		switch name {
		case "", ".":
			continue
		case "..":
			at = at.parent // walk passes directories only, which have one name
			continue
		}
		if !at.isDir() {
			return nil, invalid("the path leads through %q, which is not a directory", clip(at.path()))
		}
		child := at.children[name].inode
		switch {
		case child == nil && layer == 0:
			return nil, nil
		case child == nil:
			var err error
			if child, err = t.mkdir(at, name, layer); err != nil {
				return nil, err
			}
		case child.typ == tar.TypeSymlink:
			if hops++; hops > maxHops {
				return nil, invalid("path goes through more than %d symbolic links", maxHops)
			}
			if strings.HasPrefix(child.target, "/") {
				at = t.root
			}
			t.work += len(child.target) + len(rest)
			rest = child.target + "/" + rest
			continue
		}
		at = child
	}
	return at, nil
}

// directory walks to a directory, makes it if it is missing, and marks it for the layer up to the
// root.
func (t *Tree) directory(p string, layer int) (*inode, error) {
	dir, err := t.walk(t.root, p, layer)
	if err != nil {
		return nil, err
	}
	if !dir.isDir() {
		return nil, invalid("the path leads through %q, which is not a directory", clip(dir.path()))
	}
	dir.touch(layer)
	return dir, nil
}

// touch marks a directory and its parents for a layer.
func (n *inode) touch(layer int) {
	for ; n.touched != layer; n = n.parent {
		n.touched = layer
	}
}

// mkdir makes a directory without an entry.
func (t *Tree) mkdir(dir *inode, name string, layer int) (*inode, error) {
	n := &inode{typ: tar.TypeDir, mode: 0o755, mtime: dir.mtime}
	if err := t.put(dir, name, n, layer); err != nil {
		return nil, err
	}
	t.made = append(t.made, n)
	return n, nil
}

// takeMade returns the directories that were made without an entry since the last call.
func (t *Tree) takeMade() []*inode {
	made := t.made
	t.made = nil
	return made
}

// put gives a new inode its first name, and replaces what has the name.
func (t *Tree) put(dir *inode, name string, n *inode, layer int) error {
	if err := checkName(dir, name); err != nil {
		return err
	}
	if t.inodes++; t.inodes > t.limits.Entries {
		return TooLarge("the number of files in the image", t.limits.Entries)
	}
	cost := inodeCost + len(name)
	if n.isDir() {
		cost += dirCost
	}
	if err := t.charge(cost); err != nil {
		return err
	}
	name = strings.Clone(name) // it may be a part of a large header
	dir.touch(layer)
	n.parent, n.name = dir, name
	if n.isDir() {
		n.children, n.length, n.touched = map[string]entry{}, dir.length+1+len(name), layer
	}
	dir.children[name] = entry{n, layer}
	return nil
}

// charge counts bytes of memory that the tree is about to keep. It is never undone, so that an
// archive that replaces its own files for ever ends, too.
func (t *Tree) charge(bytes int) error {
	if t.memory += model.Bytes(bytes); t.memory > t.limits.Tree {
		return TooLarge("the memory for the names, link targets and attributes of the image's files", t.limits.Tree)
	}
	return nil
}

func checkName(dir *inode, name string) error {
	switch {
	case len(name) > maxName:
		return invalid("a file's name has %d bytes; %d is the most", len(name), maxName)
	case strings.IndexByte(name, 0) >= 0:
		return invalid("a file's name has a NUL in it")
	case dir.length+1+len(name) >= maxPath:
		return invalid("a path below %q has more than %d bytes", clip(dir.path()), maxPath)
	}
	return nil
}

// hide removes what lower layers put into dir. A second call in the same layer does nothing, so a
// hostile archive cannot make it quadratic.
func (t *Tree) hide(dir *inode, layer int) {
	if dir.opaque == layer {
		return
	}
	dir.opaque = layer
	for name, child := range dir.children {
		switch {
		case child.last() != layer:
			delete(dir.children, name)
		case child.isDir():
			t.hide(child.inode, layer)
		}
	}
}

// mountPoints are the directories on which a guest mounts, or to which it writes identity. Images
// made from scratch may lack them.
var mountPoints = []struct {
	name string
	mode int64
}{{"dev", 0o755}, {"etc", 0o755}, {"proc", 0o555}, {"root", 0o700}, {"run", 0o755}, {"sys", 0o555}, {"tmp", 0o1777}}

// addMountPoints makes the missing mountPoints. It keeps a symbolic link, and replaces other files,
// which replaced reports.
func (t *Tree) addMountPoints(layer int) (replaced bool, err error) {
	for _, m := range mountPoints {
		old := t.root.children[m.name].inode
		if old != nil && (old.isDir() || old.typ == tar.TypeSymlink) {
			continue
		}
		n, err := t.mkdir(t.root, m.name, layer)
		if err != nil {
			return false, err
		}
		n.mode = m.mode
		replaced = replaced || old != nil
	}
	return replaced, nil
}

// lookup returns the file at a path, following links, or nil.
func (t *Tree) lookup(p string) *inode {
	n, err := t.walk(t.root, p, 0)
	if err != nil {
		return nil
	}
	return n
}

// sorted returns a directory's names in order, so that equal trees give equal file systems.
func (n *inode) sorted() []string { return slices.Sorted(maps.Keys(n.children)) }

func clean(name string) string { return path.Clean("/" + name) }

// clip shortens a path for an error message.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
