// Package audit writes the events that an auditor reads: who was assumed, what was proven, which key was released for
// which model, and how the load ended.
//
// An event is a record of the injected logger with "audit":1 and "event". Each has exactly the fields of its struct,
// all of them in every record, empty where unknown. The fields are strings and integers only, so that neither a key nor
// a token fits in. Events are written whatever the logger's level: an audit trail does not depend on verbosity.
package audit

import (
	"context"
	"log/slog"
	"time"
)

// Log writes events. A nil *Log, and one made from a nil logger, write nothing. It is safe for concurrent use as far as
// the logger's handler is.
type Log struct{ handler slog.Handler }

// New makes a Log that writes to logger.
func New(logger *slog.Logger) *Log {
	if logger == nil {
		return nil
	}
	return &Log{logger.Handler()}
}

// IdentityAssumed is one hop of the role chain: event identity.assumed.
type IdentityAssumed struct {
	Hop           int    // 0 is the web identity
	RoleARN       string // the role that was asked for
	AssumedRoleID string // as STS names the session: role id and session name
	RequestID     string // of STS
}

// EvidenceProduced says that evidence was collected for a broker: event evidence.produced.
type EvidenceProduced struct {
	Model    string
	Version  uint64
	Attester string
	Bytes    int // length of the evidence, which itself is not logged
}

// KeyReleased says that a broker released a model's key: event key.released.
type KeyReleased struct {
	Model     string
	Version   uint64
	MDKID     string // base64url, public: commits to the key
	WrapType  string
	KeyID     string // the key that opened the wrap
	RequestID string // of the broker
	Assurance string // what the release was conditioned on
	Attester  string
	ModuleID  string // what the evidence calls the machine
}

// ModelReady says that every file is authentic and in place: event model.ready.
type ModelReady struct {
	Model           string
	Version         uint64
	MDKID           string
	ObjectVersionID string // of the envelope, where the store has versions
	Files           int
	Bytes           int64 // plaintext
	Duration        time.Duration
}

// LoadFailed says that nothing was left at the destination: event load.failed.
type LoadFailed struct {
	Model    string
	Version  uint64
	MDKID    string
	ExitCode int
	Cause    string // the error's text, which by rule names no secret
	Duration time.Duration
}

// IdentityAssumed writes identity.assumed.
func (l *Log) IdentityAssumed(ctx context.Context, e IdentityAssumed) {
	l.write(ctx, slog.LevelInfo, "identity.assumed",
		slog.Int("hop", e.Hop),
		slog.String("role_arn", e.RoleARN),
		slog.String("assumed_role_id", e.AssumedRoleID),
		slog.String("request_id", e.RequestID))
}

// EvidenceProduced writes evidence.produced.
func (l *Log) EvidenceProduced(ctx context.Context, e EvidenceProduced) {
	l.write(ctx, slog.LevelInfo, "evidence.produced",
		slog.String("model", e.Model),
		slog.Uint64("version", e.Version),
		slog.String("attester", e.Attester),
		slog.Int("bytes", e.Bytes))
}

// KeyReleased writes key.released.
func (l *Log) KeyReleased(ctx context.Context, e KeyReleased) {
	l.write(ctx, slog.LevelInfo, "key.released",
		slog.String("model", e.Model),
		slog.Uint64("version", e.Version),
		slog.String("mdk_id", e.MDKID),
		slog.String("wrap_type", e.WrapType),
		slog.String("key_id", e.KeyID),
		slog.String("request_id", e.RequestID),
		slog.String("assurance", e.Assurance),
		slog.String("attester", e.Attester),
		slog.String("module_id", e.ModuleID))
}

// ModelReady writes model.ready.
func (l *Log) ModelReady(ctx context.Context, e ModelReady) {
	l.write(ctx, slog.LevelInfo, "model.ready",
		slog.String("model", e.Model),
		slog.Uint64("version", e.Version),
		slog.String("mdk_id", e.MDKID),
		slog.String("object_version_id", e.ObjectVersionID),
		slog.Int("files", e.Files),
		slog.Int64("bytes", e.Bytes),
		slog.Int64("duration_ms", e.Duration.Milliseconds()))
}

// LoadFailed writes load.failed, at level Error.
func (l *Log) LoadFailed(ctx context.Context, e LoadFailed) {
	l.write(ctx, slog.LevelError, "load.failed",
		slog.String("model", e.Model),
		slog.Uint64("version", e.Version),
		slog.String("mdk_id", e.MDKID),
		slog.Int("exit_code", e.ExitCode),
		slog.String("cause", e.Cause),
		slog.Int64("duration_ms", e.Duration.Milliseconds()))
}

// write hands a record to the handler itself: the logger in front of it would drop records below its level.
func (l *Log) write(ctx context.Context, level slog.Level, event string, attrs ...slog.Attr) {
	if l == nil {
		return
	}
	record := slog.NewRecord(time.Now(), level, event, 0)
	record.AddAttrs(slog.Int("audit", 1), slog.String("event", event))
	record.AddAttrs(attrs...)
	_ = l.handler.Handle(ctx, record) // as slog.Logger: there is nowhere left to report it
}
