package identity

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// Caller is who one step of the chain is, by AWS's own word.
type Caller struct {
	Step    string // "web identity, arn:aws:iam::…:role/loader"
	ARN     string
	Account string
	UserID  string
	Err     error // why there is no such identity; a kind and a cure as from Retrieve
}

// Callers asks STS who each step is (GetCallerIdentity, which needs no permission), in order, and ends with the first
// step that fails. Anonymous access has none.
func (p *Provider) Callers(ctx context.Context) []Caller {
	var callers []Caller
	for _, s := range p.steps {
		c := p.caller(ctx, s)
		callers = append(callers, c)
		if c.Err != nil {
			break
		}
	}
	return callers
}

func (p *Provider) caller(ctx context.Context, s step) Caller {
	out, err := p.cfg.sts(s.creds).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return Caller{Step: s.name, Err: Diagnose(err, Op{Action: "sts:GetCallerIdentity", Region: p.cfg.region()})}
	}
	return Caller{Step: s.name, ARN: aws.ToString(out.Arn), Account: aws.ToString(out.Account),
		UserID: aws.ToString(out.UserId)}
}
