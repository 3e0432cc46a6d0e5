package keybroker

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/sealfetch/sealfetch/internal/fault"
)

// keyARN is the ARN of a KMS key or alias, in parts that need no more checking.
// Source: KMS developer guide, "Key ARN", "Alias ARN"; a multi-Region key has an id that begins with mrk-.
type keyARN struct {
	partition, region, account, resource string
}

var (
	keyARNForm = regexp.MustCompile(`^arn:(aws[a-z-]{0,16}):kms:([a-z]{2}[a-z-]{1,20}-[0-9]{1,2}):([0-9]{12}):` +
		`(key/[A-Za-z0-9-]{1,64}|alias/[A-Za-z0-9/_-]{1,250})$`)
	aliasPrefix = "alias/"
)

func parseKeyARN(s string) (keyARN, error) {
	m := keyARNForm.FindStringSubmatch(s)
	if m == nil {
		return keyARN{}, fault.New(fault.Usage, "give the whole ARN: arn:aws:kms:REGION:ACCOUNT:key/ID or …:alias/NAME",
			"%.200q is not the ARN of a KMS key or alias", s)
	}
	return keyARN{m[1], m[2], m[3], m[4]}, nil
}

func (k keyARN) String() string {
	return strings.Join([]string{"arn", k.partition, "kms", k.region, k.account, k.resource}, ":")
}

func (k keyARN) isAlias() bool { return strings.HasPrefix(k.resource, aliasPrefix) }

// answeredBy holds a reply to the key that was asked. KMS answers for an alias with the ARN of the key behind it, of
// which no more can be known than its account and region.
func (k keyARN) answeredBy(arn string) error {
	got, err := parseKeyARN(arn)
	if err != nil || got.isAlias() {
		return fmt.Errorf("the reply names %.200q as its key", arn)
	}
	if k.isAlias() {
		got.resource = k.resource
	}
	if got != k {
		return fmt.Errorf("the reply is of another key, %s", arn)
	}
	return nil
}
