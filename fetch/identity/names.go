package identity

import (
	"strings"
	"unicode/utf8"
)

// maxSessionName is STS's limit on RoleSessionName and SourceIdentity, in characters.
const maxSessionName = 64

// maxNamePart is what is left of each part when all together are too long: four parts fit then.
const maxNamePart = 18

// SessionName joins parts (program, namespace, pod or service, a suffix) with hyphens into a name that STS takes for a
// role session: characters outside [\w+=,.@-] become hyphens, empty parts are left out, and where all parts together
// exceed 64 characters each is cut, the last one from its front, because its end tells sessions apart. The other
// account reads the name in its audit log: it must hold no secret.
func SessionName(parts ...string) string {
	var clean []string
	for _, part := range parts {
		if part != "" {
			clean = append(clean, strings.Map(sessionRune, part))
		}
	}
	name := strings.Join(clean, "-")
	if len(name) > maxSessionName {
		name = shortName(clean)
	}
	if len(name) < 2 {
		return "sealfetch"
	}
	return name
}

func shortName(parts []string) string {
	last := parts[len(parts)-1]
	last = last[max(0, len(last)-maxNamePart):]
	var head []string
	for _, part := range parts[:len(parts)-1] {
		head = append(head, part[:min(len(part), maxNamePart)])
	}
	front := strings.Join(head, "-")
	front = front[:min(len(front), maxSessionName-len(last)-1)]
	return strings.TrimPrefix(front+"-"+last, "-")
}

func sessionRune(r rune) rune {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r < utf8.RuneSelf &&
		strings.ContainsRune("_+=,.@-", r):
		return r
	default:
		return '-'
	}
}

// sessionNameOK reports whether STS would take name as it is.
func sessionNameOK(name string) bool {
	return len(name) >= 2 && len(name) <= maxSessionName && strings.Map(sessionRune, name) == name
}
