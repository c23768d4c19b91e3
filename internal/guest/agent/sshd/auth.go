package sshd

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// accountKey is where ssh.Permissions carry the Account of a login.
type accountKey struct{}

// server returns the library's configuration: public keys only, and no host key but ours.
func (cfg Config) server() *ssh.ServerConfig {
	sc := &ssh.ServerConfig{
		ServerVersion: version,
		MaxAuthTries:  maxAuthTries,
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if !cfg.authorized(key) {
				return nil, errors.New("the key is not an authorized one")
			}
			return &ssh.Permissions{}, nil
		},
		VerifiedPublicKeyCallback: func(meta ssh.ConnMetadata, _ ssh.PublicKey, p *ssh.Permissions, _ string) (*ssh.Permissions, error) {
			account, err := cfg.Lookup(meta.User())
			if err != nil {
				return nil, &ssh.BannerError{Err: err, Message: fmt.Sprintf("banger: cannot log in as %q: %v\r\n", meta.User(), err)}
			}
			p.ExtraData = map[any]any{accountKey{}: account}
			return p, nil
		},
	}
	// The client's order decides (RFC 4253, section 7.1), and OpenSSH's begins with chacha20-poly1305 as well: it is three
	// times as fast as AES where the CPU is emulated. CBC and SHA-1 are not offered.
	sc.Ciphers = []string{
		ssh.CipherChaCha20Poly1305, ssh.CipherAES128GCM, ssh.CipherAES256GCM,
		ssh.CipherAES128CTR, ssh.CipherAES192CTR, ssh.CipherAES256CTR,
	}
	sc.KeyExchanges = ssh.SupportedAlgorithms().KeyExchanges
	sc.AddHostKey(cfg.HostKey)
	return sc
}

// authorized tells whether key stands in the authorized keys.
func (cfg Config) authorized(key ssh.PublicKey) bool {
	wire := key.Marshal()
	for _, line := range cfg.AuthorizedKeys() {
		// The parser skips what it cannot read and looks for the next key: give it one line only.
		line, _, _ := bytes.Cut([]byte(line), []byte("\n"))
		k, _, options, _, err := ssh.ParseAuthorizedKey(line)
		if err != nil || !bytes.Equal(k.Marshal(), wire) {
			continue
		}
		if len(options) > 0 {
			cfg.Log.Warn("ignoring an authorized key with options, which are not supported", "options", options)
			continue
		}
		return true
	}
	return false
}
