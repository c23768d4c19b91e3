package bundle

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"banger/internal/paths"
	"banger/internal/regular"
)

// removed stands for what was removed.
const removed = "(removed)"

// minSecret is the length from which on a value is looked for in all texts, bytes. Shorter ones,
// such as "1" and "true", would take half of each text with them; they are removed from the
// records only.
const minSecret = 6

// maxSecretFile bounds a file that secrets are read from, bytes.
const maxSecretFile = 1 << 20

// scrubber removes secrets from texts: those that it was told, and what looks like one.
type scrubber struct {
	secrets  map[string]bool
	longest  int // bytes of the longest secret
	replacer *strings.Replacer
	patterns []pattern
}

// newScrubber returns a scrubber that knows the secrets of this home and of the registries'
// credentials.
func newScrubber(layout paths.Layout, lookupEnv func(string) (string, bool)) *scrubber {
	s := &scrubber{secrets: map[string]bool{}, patterns: patterns()}
	s.addKey(layout.SSHKey())
	dir, ok := lookupEnv("DOCKER_CONFIG")
	if home, _ := lookupEnv("HOME"); !ok || dir == "" {
		dir = filepath.Join(home, ".docker")
	}
	s.addDocker(filepath.Join(dir, "config.json"))
	return s
}

// add adds a value, its lines, and the forms in which JSON, Go, URLs and base64 write them.
func (s *scrubber) add(value string) {
	for _, line := range append(strings.Split(value, "\n"), value) {
		line = strings.TrimSpace(line)
		if len(line) < minSecret {
			continue
		}
		s.secrets[line] = true
		if data, err := json.Marshal(line); err == nil {
			s.secrets[strings.Trim(string(data), `"`)] = true
		}
		s.secrets[strings.Trim(strconv.Quote(line), `"`)] = true
		s.secrets[url.QueryEscape(line)] = true
		s.secrets[url.PathEscape(line)] = true
		s.secrets[base64.StdEncoding.EncodeToString([]byte(line))] = true
	}
}

func (s *scrubber) addEnv(env map[string]string) {
	for _, value := range env {
		s.add(value)
	}
}

// addKey adds the lines of a private key.
func (s *scrubber) addKey(file string) {
	for line := range strings.Lines(string(readBounded(file))) {
		if !strings.HasPrefix(line, "-----") {
			s.add(line)
		}
	}
}

// addDocker adds the credentials of docker's configuration, which pulls use.
func (s *scrubber) addDocker(file string) {
	var config struct {
		Auths map[string]struct{ Auth, Password, IdentityToken, RegistryToken string }
	}
	if json.Unmarshal(readBounded(file), &config) != nil {
		return
	}
	for _, a := range config.Auths {
		for _, secret := range []string{a.Auth, a.Password, a.IdentityToken, a.RegistryToken} {
			s.add(secret)
		}
		if plain, err := base64.StdEncoding.DecodeString(a.Auth); err == nil {
			_, password, _ := strings.Cut(string(plain), ":")
			s.add(password)
		}
	}
}

func readBounded(file string) []byte {
	f, err := regular.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecretFile))
	if err != nil {
		return nil
	}
	return data
}

// seal makes the scrubber ready. Longer secrets come first, so that a secret within one leaves no
// rest.
func (s *scrubber) seal() {
	var all []string
	for secret := range s.secrets {
		all = append(all, secret)
		s.longest = max(s.longest, len(secret))
	}
	slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, secret := range all {
		pairs = append(pairs, secret, removed)
	}
	s.replacer = strings.NewReplacer(pairs...)
}

// text removes secrets from a text.
func (s *scrubber) text(text string) string {
	text = s.replacer.Replace(text)
	for _, p := range s.patterns {
		text = p.find.ReplaceAllString(text, p.replace)
	}
	return text
}

// pattern finds one kind of secret.
type pattern struct {
	find    *regexp.Regexp
	replace string
}

// patterns find what looks like a secret, whoever wrote it. They are compiled when a bundle is
// made, and not at the start of every command.
func patterns() []pattern {
	const (
		begin = `-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----`
		end   = `-----END [A-Z0-9 ]*PRIVATE KEY-----`
		names = `password|passwd|secret|token|api[_-]?key|private[_-]?key`
	)
	var all []pattern
	for _, p := range [][2]string{
		{begin + `[A-Za-z0-9+/=\s\\]*(` + end + `)?`, removed},
		{`[A-Za-z0-9+/=\r\n]*` + end, removed}, // its beginning was cut off
		{`(://)[^/\s:@"']+:[^/\s@"']+@`, "${1}" + removed + "@"},
		{`(?i)(authorization["']?\s*[:=]\s*["']?(?:basic|bearer|token)?\s*)[^\s"',;]+`, "${1}" + removed},
		{`(?i)(\bbearer\s+)[A-Za-z0-9._~+/=-]{8,}`, "${1}" + removed},
		{`(?i)((?:` + names + `)["']?\s*[:=]\s*["']?)[^\s"',;&}\]]+`, "${1}" + removed},
		{`\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|sk-|AKIA)[A-Za-z0-9_-]{12,}`, removed},
	} {
		all = append(all, pattern{regexp.MustCompile(p[0]), p[1]})
	}
	return all
}
