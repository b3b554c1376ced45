package server

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
)

// Call is a command line that a client wants the server to run.
type Call struct {
	Args  []string `json:"args"`
	Dir   string   `json:"dir"`   // the client's working folder
	Width int      `json:"width"` // of its terminal; 0: none
}

// Execute runs a call for a client whose user was checked, and returns its
// exit code.
type Execute func(ctx context.Context, c Call, stdin io.Reader, stdout, stderr io.Writer) int

// The streams of the socket's frames: one byte, a length of four bytes, data.
const (
	streamIn   = 0
	streamOut  = 1
	streamErr  = 2
	streamExit = 3
)

const maxSocketFrame = 1 << 20

// runtimeDir is the RuntimeDirectory= of the systemd unit.
const runtimeDir = "/run/letterhold"

// socketName is short, since paths of sockets are limited to about 100 bytes.
func socketName(dir string) (string, error) {
	full, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	if full, err = filepath.Abs(full); err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(full))
	return hex.EncodeToString(sum[:8]) + ".sock", nil
}

// userDirs are the folders in which a user's server may listen, best first.
func userDirs(uid int) []string {
	name := fmt.Sprintf("letterhold-%d", uid)
	var out []string
	if x := os.Getenv("XDG_RUNTIME_DIR"); x != "" && uid == os.Getuid() && uid != 0 {
		out = append(out, filepath.Join(x, name))
	}
	return append(out, filepath.Join("/run", name), filepath.Join(os.TempDir(), name))
}

// SocketPath is where the server of an archive listens: in systemd's runtime
// directory if there is one, else in a folder of the user's own.
func SocketPath(dir string) (string, error) {
	name, err := socketName(dir)
	if err != nil {
		return "", err
	}
	if r := os.Getenv("RUNTIME_DIRECTORY"); r != "" {
		return filepath.Join(r, name), nil
	}
	for _, d := range userDirs(os.Getuid()) {
		if !writable(filepath.Dir(d)) {
			continue
		}
		if err := os.MkdirAll(d, 0o700); err != nil {
			return "", err
		}
		fi, err := os.Lstat(d)
		if err != nil {
			return "", err
		}
		if !fi.IsDir() || fi.Mode().Perm() != 0o700 || !ownedByUs(fi) {
			return "", fmt.Errorf("%s belongs to somebody else or is open to others", d)
		}
		return filepath.Join(d, name), nil
	}
	return "", errors.New("there is no folder for the local socket")
}

// findSocket looks where the server of an archive may listen: as this user, or
// as the user who owns the archive.
func findSocket(dir string) (string, error) {
	name, err := socketName(dir)
	if err != nil {
		return "", err
	}
	dirs := append([]string{runtimeDir}, userDirs(os.Getuid())...)
	if fi, err := os.Stat(dir); err == nil {
		dirs = append(dirs, userDirs(owner(fi))...)
	}
	for _, d := range dirs {
		if p := filepath.Join(d, name); exists(p) {
			return p, nil
		}
	}
	return "", errors.New("the process that owns the archive is no server, or its local socket is not reachable")
}

func exists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}

func writable(dir string) bool {
	f, err := os.CreateTemp(dir, ".letterhold-")
	if err != nil {
		return false
	}
	f.Close()
	os.Remove(f.Name())
	return true
}

// listenSocket listens for command lines and runs them until ctx ends.
func listenSocket(ctx context.Context, path string, execute Execute) (func(), error) {
	os.Remove(path) // the archive's lock says that nobody else listens
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("local socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	var calls sync.WaitGroup
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			calls.Go(func() { serveCall(ctx, c.(*net.UnixConn), execute) })
		}
	}()
	return func() {
		l.Close()
		stop()
		calls.Wait()
	}, nil
}

func serveCall(ctx context.Context, c *net.UnixConn, execute Execute) {
	defer c.Close()
	uid, err := peerUID(c)
	if err != nil || uid != os.Getuid() && uid != 0 {
		return
	}
	r := bufio.NewReader(c)
	line, err := r.ReadBytes('\n')
	var call Call
	if err != nil || json.Unmarshal(line, &call) != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in, feed := io.Pipe()
	go func() {
		defer cancel() // the client is gone
		for {
			stream, b, err := readSocket(r)
			if err != nil {
				feed.CloseWithError(io.ErrUnexpectedEOF)
				return
			}
			if stream == streamIn && len(b) == 0 {
				feed.Close()
			} else if stream == streamIn {
				feed.Write(b)
			}
		}
	}()
	w := &socketWriter{c: c}
	code := execute(ctx, call, in, stream{w, streamOut}, stream{w, streamErr})
	in.Close()
	w.write(streamExit, []byte{byte(code)})
}

func readSocket(r io.Reader) (byte, []byte, error) {
	var h [5]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(h[1:])
	if n > maxSocketFrame {
		return 0, nil, errors.New("socket frame too long")
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return h[0], b, err
}

type socketWriter struct {
	mu sync.Mutex
	c  net.Conn
}

func (w *socketWriter) write(stream byte, b []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for first := true; first || len(b) > 0; first = false {
		n := min(len(b), maxSocketFrame)
		f := binary.BigEndian.AppendUint32([]byte{stream}, uint32(n))
		if _, err := w.c.Write(append(f, b[:n]...)); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

type stream struct {
	w *socketWriter
	n byte
}

func (s stream) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if err := s.w.write(s.n, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Forward lets the server of the archive in dir run a call, and returns its
// exit code. When ctx ends, the call is cancelled and its end awaited.
func Forward(ctx context.Context, dir string, call Call, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	path, err := findSocket(dir)
	if err != nil {
		return 0, err
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		return 0, fmt.Errorf("the server that owns the archive does not listen: %w", err)
	}
	defer c.Close()
	if uid, err := peerUID(c.(*net.UnixConn)); err != nil || uid != os.Getuid() && uid != 0 && os.Getuid() != 0 {
		return 0, errors.New("the local socket belongs to somebody else")
	}
	line, err := json.Marshal(call)
	if err != nil {
		return 0, err
	}
	if _, err := c.Write(append(line, '\n')); err != nil {
		return 0, err
	}
	w := &socketWriter{c: c}
	if readsInput(call.Args) {
		go func() {
			io.Copy(stream{w, streamIn}, stdin)
			w.write(streamIn, nil)
		}()
	}
	defer context.AfterFunc(ctx, func() { c.(*net.UnixConn).CloseWrite() })()
	for {
		n, b, err := readSocket(c)
		if err != nil {
			return 0, fmt.Errorf("the server that runs the command went away: %w", err)
		}
		switch n {
		case streamOut:
			_, err = stdout.Write(b)
		case streamErr:
			_, err = stderr.Write(b)
		case streamExit:
			return int(b[0]), nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// readsInput tells a command line that reads standard input: it names "-".
func readsInput(args []string) bool {
	for _, a := range args {
		if a == "-" || a == UnlockCall {
			return true
		}
	}
	return false
}
