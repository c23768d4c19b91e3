package rootfs

import (
	"archive/tar"
	"path"
	"slices"
	"strings"
	"time"

	"banger/internal/fault"
)

// Whiteouts (OCI image-spec, layer.md, "Whiteouts"). The longer prefixes are leftovers of aufs and
// have no meaning.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	aufsPrefix     = ".wh..wh."
)

// add applies one entry of a layer to the tree, by docker's rules (docs/internals/images.md). It
// returns the entry's inode, or nil for a whiteout, a hard link or an ignored entry. replaced
// reports that a file, not a directory, lost its name.
func (t *Tree) add(hdr *tar.Header, at place, whiteouts bool) (n *inode, replaced bool, err error) {
	p := clean(hdr.Name)
	defer func() {
		if err != nil {
			err = fault.New(fault.Invalid, "entry %q: %w", clip(hdr.Name), err)
		}
	}()
	if t.entries++; t.entries > t.limits.Entries {
		return nil, false, TooLarge("the number of the archive's entries", t.limits.Entries)
	}
	if hdr.Typeflag == tar.TypeXGlobalHeader || t.skip != nil && t.skip(p) {
		return nil, false, nil
	}
	if p == "/" {
		n, err = t.addRoot(hdr, at)
		return n, false, err
	}
	if len(p) > maxPath {
		return nil, false, invalid("the path has %d bytes; %d is the most", len(p), maxPath)
	}
	dirName, name := path.Split(p)
	if whiteouts && strings.HasPrefix(name, whiteoutPrefix) {
		return nil, false, t.whiteout(dirName, name, at.layer)
	}
	dir, err := t.directory(dirName, at.layer)
	if err != nil {
		return nil, false, err
	}
	if dir == t.root && name == "lost+found" && hdr.Typeflag != tar.TypeDir {
		return nil, false, nil // ext4 has a directory of that name there
	}
	if hdr.Typeflag == tar.TypeLink {
		_, taken := dir.children[name]
		return nil, taken, t.addLink(dir, name, clean(hdr.Linkname), at.layer)
	}
	return t.addFile(hdr, dir, name, at)
}

func (t *Tree) addRoot(hdr *tar.Header, at place) (*inode, error) {
	if hdr.Typeflag != tar.TypeDir {
		return nil, invalid("the root must be a directory")
	}
	n, err := t.describe(hdr)
	if err != nil {
		return nil, err
	}
	t.root.become(n)
	t.root.touch(at.layer)
	return t.root, nil
}

func (t *Tree) addFile(hdr *tar.Header, dir *inode, name string, at place) (*inode, bool, error) {
	n, err := t.describe(hdr)
	if err != nil {
		return nil, false, err
	}
	n.at = at
	if t.size += n.size; t.size > int64(t.limits.Size) || n.size > maxFile {
		return nil, false, TooLarge("what the image's files hold", min(t.limits.Size, maxFile))
	}
	old := dir.children[name].inode
	if old != nil && old.isDir() && n.isDir() {
		old.become(n)
		old.touch(at.layer)
		return old, false, nil
	}
	return n, old != nil, t.put(dir, name, n, at.layer)
}

// become copies an entry's attributes to a directory, without its name and content.
func (n *inode) become(o *inode) {
	n.mode, n.uid, n.gid, n.mtime, n.xattrs = o.mode, o.uid, o.gid, o.mtime, o.xattrs
}

// addLink gives the inode at target another name. A missing target may come later in this layer.
func (t *Tree) addLink(dir *inode, name, target string, layer int) error {
	if len(target) > maxPath {
		return invalid("the hard link's target has %d bytes; %d is the most", len(target), maxPath)
	}
	if err := t.charge(nameCost + len(name) + len(target)); err != nil {
		return err
	}
	return t.link(dir, name, target, layer)
}

// link is addLink for a link that was charged before.
func (t *Tree) link(dir *inode, name, target string, layer int) error {
	if err := checkName(dir, name); err != nil {
		return err
	}
	targetDir, targetName := path.Split(target)
	from, err := t.walk(t.root, targetDir, 0)
	if err != nil {
		return err
	}
	var n *inode
	if from != nil && from.isDir() {
		n = from.children[targetName].inode
	}
	switch {
	case n == nil:
		t.pending = append(t.pending, pendingLink{dir, strings.Clone(name), strings.Clone(target)})
		return nil
	case n.isDir():
		return invalid("hard link to the directory %q", clip(target))
	}
	dir.touch(layer)
	dir.children[strings.Clone(name)] = entry{n, layer}
	return nil
}

// endLayer resolves hard links that came before their targets. Links to links come in any order, so
// it repeats while it makes progress.
func (t *Tree) endLayer(layer int) error {
	for len(t.pending) > 0 {
		todo := t.pending
		t.pending = nil
		for _, l := range todo {
			if old, ok := l.dir.children[l.name]; ok && old.last() == layer {
				continue // a later entry took the name
			}
			if err := t.link(l.dir, l.name, l.target, layer); err != nil {
				return fault.New(fault.Invalid, "hard link %q: %w", clip(join(l.dir, l.name)), err)
			}
		}
		if len(t.pending) == len(todo) {
			return invalid("hard link %q leads to %q, which is not in the image",
				clip(join(todo[0].dir, todo[0].name)), clip(todo[0].target))
		}
		t.work += len(todo)
		if t.work > maxWork {
			return invalid("the archive's hard links take too long to follow")
		}
	}
	return nil
}

func (t *Tree) whiteout(dirName, name string, layer int) error {
	dir, err := t.walk(t.root, dirName, 0)
	if err != nil || dir == nil || !dir.isDir() {
		return err // nothing to hide
	}
	if name == opaqueMarker {
		t.hide(dir, layer)
		return nil
	}
	if strings.HasPrefix(name, aufsPrefix) {
		return nil
	}
	name = strings.TrimPrefix(name, whiteoutPrefix)
	switch child := dir.children[name]; {
	case child.inode == nil:
	case child.last() != layer:
		delete(dir.children, name)
	case child.isDir():
		t.hide(child.inode, layer)
	}
	return nil
}

// describe makes an inode from an entry, or returns why it cannot.
func (t *Tree) describe(hdr *tar.Header) (*inode, error) {
	if hdr.Uid < 0 || hdr.Uid > maxID || hdr.Gid < 0 || hdr.Gid > maxID {
		return nil, invalid("owner %d:%d is out of range", hdr.Uid, hdr.Gid)
	}
	if hdr.Size < 0 {
		return nil, invalid("negative size")
	}
	n := &inode{typ: hdr.Typeflag, mode: hdr.Mode & 0o7777, uid: hdr.Uid, gid: hdr.Gid, mtime: clampTime(hdr.ModTime)}
	if err := t.keepXattrs(n, hdr.PAXRecords); err != nil {
		return nil, err
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		n.typ, n.size = tar.TypeReg, hdr.Size
	case tar.TypeDir, tar.TypeFifo:
	case tar.TypeSymlink:
		if hdr.Linkname == "" || len(hdr.Linkname) > maxTarget || strings.IndexByte(hdr.Linkname, 0) >= 0 {
			return nil, invalid("a symbolic link's target has between 1 and %d bytes, none of them NUL", maxTarget)
		}
		if err := t.charge(len(hdr.Linkname)); err != nil {
			return nil, err
		}
		n.target = strings.Clone(hdr.Linkname)
	case tar.TypeChar, tar.TypeBlock:
		if hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20 {
			return nil, invalid("device number %d:%d is out of range", hdr.Devmajor, hdr.Devminor)
		}
		n.major, n.minor = hdr.Devmajor, hdr.Devminor
	default:
		return nil, invalid("entries of type %q are not known", hdr.Typeflag)
	}
	return n, nil
}

// clampTime limits times to those that the ext4 writer stores correctly: 1970 to 2446 (34 bits of
// seconds).
func clampTime(t time.Time) time.Time {
	switch s := t.Unix(); {
	case s < 0:
		return time.Unix(0, 0)
	case s > 0x37fffffff:
		return time.Unix(0x37fffffff, 0)
	}
	return t
}

const xattrRecord = "SCHILY.xattr." // in PAX headers, by star, GNU tar and docker

// keepXattrs gives an inode the extended attributes for the image. It drops system.*, because tar
// has it in another form than ext4; marks of an overlay, which would change the guest's; and those
// that do not fit in the inode and one block.
func (t *Tree) keepXattrs(n *inode, records map[string]string) error {
	var names []string
	for key := range records {
		if name, ok := strings.CutPrefix(key, xattrRecord); ok && goodXattr(name) {
			names = append(names, name)
		}
	}
	// Attributes that programs need come first.
	slices.SortFunc(names, func(a, b string) int {
		return 2*(rank(a)-rank(b)) + strings.Compare(a, b)
	})
	var kept []xattr
	for _, name := range names[:min(len(names), maxXattrs)] {
		if t.work += len(kept) * len(kept); t.work > maxWork {
			return invalid("the archive's extended attributes take too long to check")
		}
		if with := append(kept, xattr{name, records[xattrRecord+name]}); xattrsFit(with) {
			kept = with
		}
	}
	for i, x := range kept {
		if err := t.charge(xattrCost + len(x.name) + len(x.value)); err != nil {
			return err
		}
		kept[i] = xattr{strings.Clone(x.name), strings.Clone(x.value)} // parts of a large header
	}
	n.xattrs = kept
	return nil
}

func rank(name string) int {
	switch {
	case name == "security.capability":
		return 0
	case strings.HasPrefix(name, "security."):
		return 1
	case strings.HasPrefix(name, "user."):
		return 2
	}
	return 3
}

func goodXattr(name string) bool {
	class, rest, _ := strings.Cut(name, ".")
	switch {
	case len(name) > maxName || rest == "" || strings.ContainsAny(name, "\x00="):
		return false
	case strings.HasPrefix(rest, "overlay."):
		return false
	}
	return class == "user" || class == "security" || class == "trusted"
}

// Room for extended attributes: the tail of a 256 byte inode and one block of 4096 bytes, each
// without its header (hcsshim/ext4/internal/compactext4, xattrState).
const (
	xattrInodeRoom = 256 - 152 - 8
	xattrBlockRoom = 4096 - 36
)

// xattrsFit reports whether the ext4 writer stores the attributes so that the kernel finds them.
// The kernel requires a block's attributes in the order of class, length and name. The writer sorts
// otherwise, so xattrsFit rejects sets for which the orders differ.
func xattrsFit(xattrs []xattr) bool {
	inodeLeft, blockLeft := xattrInodeRoom, xattrBlockRoom
	var block []string
	for _, x := range slices.SortedFunc(slices.Values(xattrs), func(a, b xattr) int { return strings.Compare(a.name, b.name) }) {
		_, rest, _ := strings.Cut(x.name, ".")
		need := (len(rest)+3)&^3 + 16 + (len(x.value)+3)&^3
		switch {
		case inodeLeft >= need:
			inodeLeft -= need
		case blockLeft >= need:
			blockLeft -= need
			block = append(block, x.name)
		default:
			return false
		}
	}
	for i, a := range block {
		for _, b := range block[:i] {
			if writerLess(a, b) == writerLess(b, a) {
				return false
			}
		}
	}
	return true
}

// writerLess compares attributes of a block as the ext4 writer does. Where it is not symmetric, the
// kernel and the writer agree.
func writerLess(a, b string) bool {
	classA, restA, _ := strings.Cut(a, ".")
	classB, restB, _ := strings.Cut(b, ".")
	return xattrClass(classA) < xattrClass(classB) || len(restA) < len(restB) || restA < restB
}

// xattrClass is e_name_index of ext4 (fs/ext4/xattr.h).
func xattrClass(class string) int {
	switch class {
	case "user":
		return 1
	case "trusted":
		return 4
	}
	return 6 // security
}
