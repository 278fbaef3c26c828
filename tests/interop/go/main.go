// Makes and judges UCAN tokens with go-ucan. One JSON document in, one out.
//
// {"make": LINKS} gives a chain of so many delegations and an invocation by them.
// {"judge": {"invocation": BASE64, "proofs": [BASE64]}} says whether they hold together; the
// invocation names its proofs in the order that go-ucan wants, the leaf first.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/MetaMask/go-did-it"
	"github.com/MetaMask/go-did-it/crypto/ed25519"
	didkey "github.com/MetaMask/go-did-it/verifiers/did-key"
	"github.com/ipfs/go-cid"

	"github.com/ucan-wg/go-ucan/pkg/command"
	"github.com/ucan-wg/go-ucan/pkg/policy"
	"github.com/ucan-wg/go-ucan/token/delegation"
	"github.com/ucan-wg/go-ucan/token/invocation"
)

type token struct {
	Token []byte `json:"token"`
	Cid   string `json:"cid"`
}

type asked struct {
	Make  int `json:"make"`
	Judge *struct {
		Invocation []byte   `json:"invocation"`
		Proofs     [][]byte `json:"proofs"`
	} `json:"judge"`
}

type answer struct {
	Ok         bool           `json:"ok"`
	Error      string         `json:"error,omitempty"`
	Subject    string         `json:"subject,omitempty"`
	Issuer     string         `json:"issuer,omitempty"`
	Args       map[string]any `json:"args,omitempty"`
	Proofs     []token        `json:"proofs,omitempty"`
	Invocation *token         `json:"invocation,omitempty"`
}

type loader map[cid.Cid]*delegation.Token

func (known loader) GetDelegation(id cid.Cid) (*delegation.Token, error) {
	if found, ok := known[id]; ok {
		return found, nil
	}
	return nil, delegation.ErrDelegationNotFound
}

func build(links int) (answer, error) {
	keys := make([]ed25519.PrivateKey, links+1)
	dids := make([]did.DID, links+1)
	for n := range keys {
		public, private, err := ed25519.GenerateKeyPair()
		if err != nil {
			return answer{}, err
		}
		keys[n], dids[n] = private, didkey.FromPublicKey(public)
	}
	args := map[string]any{"namespace": "team-a/x", "priority": int64(2)}
	made := answer{Ok: true, Subject: dids[0].String(), Issuer: dids[links].String(), Args: args}
	ends := time.Now().Add(250 * time.Second)
	var ids []cid.Cid
	for n := range links {
		given := command.MustParse([]string{"/task", "/task/submit"}[min(n, 1)])
		rules := policy.MustConstruct(policy.Like(".namespace", "team-a/*"))
		one, err := delegation.New(
			dids[n], dids[n+1], given, rules, dids[0], delegation.WithExpiration(ends),
		)
		if err != nil {
			return answer{}, err
		}
		sealed, id, err := one.ToSealed(keys[n])
		if err != nil {
			return answer{}, err
		}
		ids = append(ids, id)
		made.Proofs = append(made.Proofs, token{sealed, id.String()})
	}
	slices.Reverse(ids)
	call, err := invocation.New(
		dids[links], command.MustParse("/task/submit"), dids[0], ids,
		invocation.WithArgument("namespace", args["namespace"]),
		invocation.WithArgument("priority", args["priority"]),
		invocation.WithExpiration(ends),
	)
	if err != nil {
		return answer{}, err
	}
	sealed, id, err := call.ToSealed(keys[links])
	made.Invocation = &token{sealed, id.String()}
	return made, err
}

func judge(call []byte, proofs [][]byte) (answer, error) {
	known, said := loader{}, answer{Ok: true}
	for _, proof := range proofs {
		read, id, err := delegation.FromSealed(proof)
		if err != nil {
			return answer{}, err
		}
		known[id] = read
		said.Proofs = append(said.Proofs, token{nil, id.String()})
	}
	read, id, err := invocation.FromSealed(call)
	if err != nil {
		return answer{}, err
	}
	said.Invocation = &token{nil, id.String()}
	return said, read.ExecutionAllowed(known)
}

func main() {
	var question asked
	err := json.NewDecoder(os.Stdin).Decode(&question)
	var said answer
	switch {
	case err != nil:
	case question.Judge != nil:
		said, err = judge(question.Judge.Invocation, question.Judge.Proofs)
	default:
		said, err = build(question.Make)
	}
	if err != nil {
		said = answer{Error: err.Error()}
	}
	text, _ := json.Marshal(said)
	fmt.Println(string(text))
}
