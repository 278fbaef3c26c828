// Makes and judges UCAN tokens with iso-ucan. One JSON document in, one out.
//
// {"make": LINKS} gives a chain of so many delegations and an invocation by them.
// {"judge": {"invocation": BASE64, "proofs": [BASE64]}} says whether they hold together; the proofs
// are in the order in which the invocation is to find them.
import { Delegation } from 'iso-ucan/delegation'
import { Invocation } from 'iso-ucan/invocation'
import { EdDSASigner } from 'iso-signatures/signers/eddsa.js'
import * as EdDSA from 'iso-signatures/verifiers/eddsa.js'
import { Resolver } from 'iso-signatures/verifiers/resolver.js'

const base64 = (bytes) => Buffer.from(bytes).toString('base64')
const bytesOf = (text) => new Uint8Array(Buffer.from(text, 'base64'))
const verifierResolver = new Resolver({ ...EdDSA.verifier })
const args = { namespace: 'team-a/x', priority: 2 }

async function make(links) {
  const people = []
  for (let n = 0; n <= links; n++) people.push(await EdDSASigner.generate())
  const exp = Math.floor(Date.now() / 1000) + 250
  const proofs = []
  for (let n = 0; n < links; n++) {
    proofs.push(
      await Delegation.create({
        iss: people[n],
        aud: people[n + 1].did,
        sub: people[0].did,
        cmd: n === 0 ? '/task' : '/task/submit',
        pol: [['like', '.namespace', 'team-a/*']],
        exp,
      })
    )
  }
  const invocation = await Invocation.create({
    iss: people[links],
    sub: people[0].did,
    cmd: '/task/submit',
    args,
    prf: proofs,
    exp,
    verifierResolver,
  })
  return {
    subject: people[0].did,
    issuer: people[links].did,
    args,
    proofs: proofs.map((proof) => ({ token: base64(proof.bytes), cid: proof.cid.toString() })),
    invocation: { token: base64(invocation.bytes), cid: invocation.cid.toString() },
  }
}

async function judge({ invocation, proofs }) {
  const read = await Promise.all(
    proofs.map((token) => Delegation.from({ bytes: bytesOf(token), verifierResolver }))
  )
  const byCid = new Map(read.map((delegation) => [delegation.cid.toString(), delegation]))
  const taken = await Invocation.from({
    bytes: bytesOf(invocation),
    verifierResolver,
    resolveProof: async (cid) => {
      const found = byCid.get(cid.toString())
      if (!found) throw new Error('proof not found')
      return found
    },
  })
  return { cid: taken.cid.toString(), proofs: read.map((delegation) => delegation.cid.toString()) }
}

let input = ''
for await (const piece of process.stdin) input += piece
const asked = JSON.parse(input)
try {
  const answer = 'make' in asked ? await make(asked.make) : await judge(asked.judge)
  console.log(JSON.stringify({ ok: true, ...answer }))
} catch (error) {
  console.log(JSON.stringify({ ok: false, error: String(error.message) }))
}
