package iam

// Match reports whether s matches a pattern in which * stands for any run of characters, slashes and colons too, and ?
// for exactly one. It takes time proportional to len(pattern) x len(s) at most.
func Match(pattern, s string) bool {
	p, i := 0, 0
	star, resume := -1, 0 // the last * seen, and where in s its run may be made longer
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			resume++
			p, i = star+1, resume
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
