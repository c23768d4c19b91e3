package model

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"iter"
	"strings"

	"banger/internal/pattern"
)

// namePattern is a DNS label (RFC 1123, section 2.1, in lower case), because a VM's name is also a
// host name.
var namePattern = pattern.Lazy(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// reservedNames have another meaning where a VM's name may stand.
var reservedNames = map[string]bool{"localhost": true, "all": true, "host": true, "gateway": true}

// minIDLike is the length from which hex digits read as an id: tables show so many digits of one.
// A shorter name wins over an id that begins with it.
const minIDLike = 8

// oldIDLike is what minIDLike was in older versions. A shorter name of theirs still opens, unless
// an id begins with it.
const oldIDLike = 12

// IDLike reports whether people and programs may take s for an id or its beginning: it has only
// hexadecimal digits, 8 or more. No new name is like that, so that an id means one thing.
func IDLike(s string) bool { return len(s) >= minIDLike && strings.Trim(s, "0123456789abcdef") == "" }

// OldName reports whether ref reads as an id, but opens the item with that name if no id begins
// with it: an older version accepted the name.
func OldName(ref string) bool { return IDLike(ref) && len(ref) < oldIDLike }

// Lookup returns what a person's ref means: the item with that id or name, or the items whose ids
// begin with it. A ref that reads as an id means a name only if it is an OldName.
func Lookup[T any](ref string, items iter.Seq[T], key func(T) (id, name string)) []T {
	var named, begin []T
	for item := range items {
		id, name := key(item)
		switch {
		case ref == "":
		case id == ref:
			return []T{item}
		case strings.HasPrefix(id, ref):
			begin = append(begin, item)
		}
		if ref != "" && name == ref {
			named = append(named, item)
		}
	}
	if len(named) > 0 && (!IDLike(ref) || OldName(ref) && len(begin) == 0) {
		return named[:1]
	}
	return begin
}

// CheckName returns why s cannot be the name of a new VM or snapshot, or nil.
func CheckName(s string) error {
	if IDLike(s) {
		return fmt.Errorf("name %.80q reads as an id: it has only hexadecimal digits, %d or more", s, minIDLike)
	}
	return checkHostName(s)
}

// checkHostName is CheckName for names that exist. Older versions accepted names like ids.
func checkHostName(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("a VM's name must not be empty")
	case len(s) > 63:
		return fmt.Errorf("name %.20q... has %d characters; at most 63 are allowed", s, len(s))
	case !namePattern().MatchString(s):
		return fmt.Errorf("name %q is not a host name: lower-case letters, digits and inner hyphens only", s)
	case reservedNames[s]:
		return fmt.Errorf("name %q is reserved", s)
	case allDigits(s):
		return fmt.Errorf("name %q has digits only, which reads as an id or an address", s)
	}
	return nil
}

func allDigits(s string) bool { return strings.Trim(s, "0123456789") == "" }

// NewID returns a new random id: 64 bits in hex.
func NewID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
	return hex.EncodeToString(b[:])
}

// IsID reports whether s has the form of a VM's id.
func IsID(s string) bool { return len(s) == 16 && strings.Trim(s, "0123456789abcdef") == "" }

// NewName returns a random name, such as "quiet-otter", for which taken is false.
func NewName(taken func(string) bool) string {
	for n := 0; ; n++ {
		name := pick(strings.Fields(adjectives)) + "-" + pick(strings.Fields(animals))
		if n >= 8 { // most names are taken: make them longer
			name += "-" + NewID()[:4]
		}
		if !taken(name) {
			return name
		}
	}
}

func pick(words []string) string {
	var b [2]byte
	rand.Read(b[:])
	return words[(int(b[0])<<8|int(b[1]))%len(words)]
}

const adjectives = `agile amber bold brave bright brisk calm candid cheery clever cosmic crisp curious daring
	deft eager early fair fancy fleet fond frank fresh gentle glad golden grand happy hardy hazel honest humble ideal jolly
	keen kind lively lucid lucky lunar mellow merry mighty misty modest neat nimble noble patient placid plucky polite prime
	proud quick quiet rapid ready robust rosy rustic sage serene sharp silent silver sleek smart snowy solar sound spry
	stable steady still sunny sure swift tidy trusty upbeat vivid warm wise witty young zesty`

const animals = `albatross alpaca badger beaver bison bobcat bunting caribou cheetah cod condor coyote crane cricket
	curlew deer dingo dolphin dove dragonfly eagle egret elk falcon ferret finch firefly flamingo fox gazelle gecko gibbon
	goose grouse gull hare hawk hedgehog heron hornet horse ibex ibis iguana impala jackal jaguar jay kestrel kingfisher kite
	koala lark lemur leopard linnet lion llama lobster loon lynx magpie manatee marlin marmot marten merlin mink mole moose
	moth mule newt nightjar ocelot octopus orca oriole osprey otter owl oyster panda panther parrot pelican penguin perch
	pika plover pony puffin puma quail rabbit raven robin salmon seal shrike skylark snipe sparrow starling stoat stork
	swallow swan swift tapir tern thrush tiger toucan trout turtle viper vole walrus warbler weasel whale wolf wombat wren zebra`
