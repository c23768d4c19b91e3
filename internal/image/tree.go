package image

import (
	"archive/tar"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// A tree is the file system that an image's layers add up to, in memory and without the files' contents. Names in it are looked up as a
// kernel would that has the tree as its root: links lead nowhere else, whatever the archives say, so there is nothing to escape from.
type tree struct {
	root    *inode
	limits  Limits
	skip    func(path string) bool // tells which cleaned absolute paths to leave out; may be nil
	entries int                    // archive entries so far
	inodes  int                    // inodes made so far, the replaced ones included
	size    int64                  // bytes of all files so far, the replaced ones included
	work    int                    // what resolving paths has cost so far; see maxWork
	pending []pendingLink          // hard links of the present layer whose targets have not come yet
	made    []*inode               // folders that were made because an entry needed them; see takeMade
}

// inode is one file of any type. Names with the same inode are hard links.
type inode struct {
	typ          byte // tar.TypeReg, TypeDir, TypeSymlink, TypeChar, TypeBlock or TypeFifo
	mode         int64
	uid, gid     int
	mtime        time.Time
	target       string // of a symbolic link
	major, minor int64
	xattrs       map[string]string

	size int64 // of a regular file, whose content is...
	at   place // ... here

	parent *inode // where its first name is; the root is its own parent
	name   string // its first name
	names  int    // how many names lead to it; counted by emit

	// Folders only:
	children map[string]entry
	length   int // of its path, in bytes
	opaque   int // the last layer that hid what lower layers had put here
	touched  int // the last layer that said anything about it or what is in it
}

// entry is a name in a folder.
type entry struct {
	*inode
	layer int // the layer that gave this name to this inode
}

// last is the last layer that has to do with what the entry names.
func (e entry) last() int {
	if e.isDir() {
		return e.touched
	}
	return e.layer
}

// place says where in the layers something is: in which one (from 1 on) and in which of its entries.
type place struct{ layer, entry int }

type pendingLink struct {
	dir    *inode
	name   string
	target string // cleaned, absolute
}

func newTree(limits Limits) *tree {
	root := &inode{typ: tar.TypeDir, mode: 0o755, children: map[string]entry{}}
	root.parent = root
	return &tree{root: root, limits: limits}
}

func (n *inode) isDir() bool { return n.typ == tar.TypeDir }

// path is where the inode's first name is, without a leading slash; "" for the root.
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

// walk follows a path from dir; symbolic links on the way are followed, the last component's too. With a layer other than 0 it makes the
// folders that are missing, in that layer's name; else it returns nil when there is nothing.
func (t *tree) walk(dir *inode, rest string, layer int) (*inode, error) {
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
			at = at.parent // only folders are walked through, and theirs is the only name
			continue
		}
		if !at.isDir() {
			return nil, invalid("path goes through %q, which is no folder", clip(at.path()))
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

// folder is walk to a folder that must be one, made where needed, and marked as the layer's business up to the root.
func (t *tree) folder(p string, layer int) (*inode, error) {
	dir, err := t.walk(t.root, p, layer)
	if err != nil {
		return nil, err
	}
	if !dir.isDir() {
		return nil, invalid("path goes through %q, which is no folder", clip(dir.path()))
	}
	dir.touch(layer)
	return dir, nil
}

// touch marks a folder as a layer's business, and all that it is in: a folder that is marked is in marked ones only.
func (n *inode) touch(layer int) {
	for ; n.touched != layer; n = n.parent {
		n.touched = layer
	}
}

// mkdir makes a folder that no entry describes (yet).
func (t *tree) mkdir(dir *inode, name string, layer int) (*inode, error) {
	n := &inode{typ: tar.TypeDir, mode: 0o755, mtime: dir.mtime}
	if err := t.put(dir, name, n, layer); err != nil {
		return nil, err
	}
	t.made = append(t.made, n)
	return n, nil
}

// takeMade returns the folders that were made without an entry since the last call.
func (t *tree) takeMade() []*inode {
	made := t.made
	t.made = nil
	return made
}

// put gives a new inode its first name, in place of what has it now.
func (t *tree) put(dir *inode, name string, n *inode, layer int) error {
	if err := checkName(dir, name); err != nil {
		return err
	}
	if t.inodes++; t.inodes > t.limits.Entries {
		return tooLarge("the number of files in the image", t.limits.Entries)
	}
	name = strings.Clone(name) // it may be a piece of a large header
	dir.touch(layer)
	n.parent, n.name = dir, name
	if n.isDir() {
		n.children, n.length, n.touched = map[string]entry{}, dir.length+1+len(name), layer
	}
	dir.children[name] = entry{n, layer}
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

// hide takes away what lower layers have put into dir, but not what this one has. A second time in the same layer there is nothing
// left to do, which keeps a hostile archive from making this quadratic.
func (t *tree) hide(dir *inode, layer int) {
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

// mountPoints are the folders that a guest mounts something on or writes identity to. Images made from scratch may lack them.
var mountPoints = []struct {
	name string
	mode int64
}{{"dev", 0o755}, {"etc", 0o755}, {"proc", 0o555}, {"root", 0o700}, {"run", 0o755}, {"sys", 0o555}, {"tmp", 0o1777}}

// addMountPoints makes what of mountPoints is missing. A symbolic link is left as it is; another file gives way, and replaced tells so.
func (t *tree) addMountPoints(layer int) (replaced bool, err error) {
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

// lookup finds a file by its path, following links; nil when there is none.
func (t *tree) lookup(p string) *inode {
	n, err := t.walk(t.root, p, 0)
	if err != nil {
		return nil
	}
	return n
}

// sorted returns a folder's names in order, so that the same tree always gives the same file system.
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
