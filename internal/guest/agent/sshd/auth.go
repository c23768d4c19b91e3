package sshd

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// accountKey is the key under which ssh.Permissions carry the Account of a login.
type accountKey struct{}

// server returns the library's configuration: public keys only, and our host key only.
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
	// The client's order decides (RFC 4253, section 7.1). chacha20-poly1305 is first in OpenSSH,
	// too, and is three times as fast as AES on an emulated CPU. CBC and SHA-1 are not offered.
	sc.Ciphers = []string{
		ssh.CipherChaCha20Poly1305, ssh.CipherAES128GCM, ssh.CipherAES256GCM,
		ssh.CipherAES128CTR, ssh.CipherAES192CTR, ssh.CipherAES256CTR,
	}
	sc.KeyExchanges = ssh.SupportedAlgorithms().KeyExchanges
	sc.AddHostKey(cfg.HostKey)
	return sc
}

// authorized reports whether key is among the authorized keys.
func (cfg Config) authorized(key ssh.PublicKey) bool {
	wire := key.Marshal()
	for _, line := range cfg.AuthorizedKeys() {
		// The parser skips unreadable lines and returns the next key, so it gets one line at a
		// time.
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
