package agent

import (
	"sync"

	"banger/internal/guest/agent/proc"
)

// identity is the part of an assumed identity that commands and SSH need.
type identity struct {
	Env            []string `json:"env"`
	User           string   `json:"user"`
	Workdir        string   `json:"workdir"`
	HostKey        []byte   `json:"host_key"`
	AuthorizedKeys []string `json:"authorized_keys"`
}

// settings keep the identity that the machine has now.
type settings struct {
	mu       sync.Mutex
	identity identity
}

func (s *settings) get() identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.identity
}

func (s *settings) set(id identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identity = id
}

// commands starts commands with the settings of the identity.
type commands struct {
	table    *proc.Table
	settings *settings
}

func (c commands) runner() *proc.Runner {
	id := c.settings.get()
	return &proc.Runner{Table: c.table, Env: id.Env, User: id.User, Workdir: id.Workdir}
}
