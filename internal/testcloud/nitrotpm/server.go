package nitrotpm

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
)

const maxCommand = 4096 // bytes

// Server is a TPM behind a socket. It is safe for concurrent use.
type Server struct {
	tpm      *TPM
	listener net.Listener
	done     sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

// Serve listens on a unix or tcp address ("127.0.0.1:0" for any free port). The caller closes the server.
func (t *TPM) Serve(network, address string) (*Server, error) {
	listener, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("nitrotpm: %w", err)
	}
	s := &Server{tpm: t, listener: listener, conns: map[net.Conn]bool{}}
	s.done.Go(s.accept)
	return s, nil
}

// Device is the socket as the client's configuration names it.
func (s *Server) Device() string {
	return s.listener.Addr().Network() + ":" + s.listener.Addr().String()
}

// Close ends all connections, lets a hung TPM go and waits for what still runs.
func (s *Server) Close() {
	_ = s.listener.Close()
	s.tpm.Release()
	s.mu.Lock()
	s.closed = true
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.mu.Unlock()
	s.done.Wait()
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			_ = conn.Close()
		} else {
			s.conns[conn] = true
			s.done.Go(func() { s.serve(conn) })
		}
		s.mu.Unlock()
	}
}

func (s *Server) serve(conn net.Conn) {
	defer func() {
		_ = conn.Close()
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
	}()
	for {
		command, err := readCommand(conn)
		if err != nil {
			return
		}
		if _, err := conn.Write(s.tpm.Execute(command)); err != nil {
			return
		}
	}
}

func readCommand(r io.Reader) ([]byte, error) {
	var header [10]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[2:6])
	if size < 10 || size > maxCommand {
		return nil, fmt.Errorf("nitrotpm: a command of %d bytes", size)
	}
	command := append(header[:], make([]byte, size-10)...)
	_, err := io.ReadFull(r, command[10:])
	return command, err
}
