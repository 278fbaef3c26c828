// The other side of test_node.py: reads one JSON request a line, answers with one JSON line.
import { createInterface } from 'node:readline'
import { EdDSASigner } from 'iso-signatures/signers/eddsa.js'
import { verifier } from 'iso-signatures/verifiers/eddsa.js'
import { Resolver } from 'iso-signatures/verifiers/resolver.js'
import { Delegation } from 'iso-ucan/delegation'
import { Invocation } from 'iso-ucan/invocation'
import * as Envelope from 'iso-ucan/envelope'
import { DID } from 'iso-did'

const verifierResolver = new Resolver(verifier)
const bytes = (text) => new Uint8Array(Buffer.from(text, 'base64'))
const text = (content) => Buffer.from(content).toString('base64')
const signerOf = (seed) => EdDSASigner.generate(bytes(seed))
const answerOf = ({ bytes, cid }) => ({ token: text(bytes), cid: cid.toString() })

const operations = {
  async did({ key }) {
    return { did: (await signerOf(key)).did }
  },

  async delegate({ key, ...fields }) {
    return answerOf(await Delegation.create({ ...fields, iss: await signerOf(key) }))
  },

  // Signed without the checks that `Invocation.create` makes of the chain, so that a bad one
  // can be had too.
  async invoke({ key, proofs, ...fields }) {
    const iss = await signerOf(key)
    const prf = await Promise.all(
      proofs.map(async (proof) => (await read(proof)).cid)
    )
    const payload = {
      iss: iss.toString(),
      ...fields,
      prf,
      nonce: crypto.getRandomValues(new Uint8Array(12)),
    }
    const signed = await Envelope.sign({ spec: 'inv', signer: iss, payload })
    return { token: text(Envelope.encode(signed)) }
  },

  // As a caller of the library would.
  async create({ key, proofs, ...fields }) {
    const iss = await signerOf(key)
    const prf = await Promise.all(proofs.map(read))
    return answerOf(await Invocation.create({ ...fields, iss, prf, verifierResolver }))
  },

  async check({ token, proofs, audience }) {
    const delegations = await Promise.all(proofs.map(read))
    const found = new Map(delegations.map((one) => [one.cid.toString(), one]))
    const { cid } = await Invocation.from({
      bytes: bytes(token),
      audience: await DID.fromString(audience),
      verifierResolver,
      resolveProof: async (proof) => {
        const one = found.get(proof.toString())
        if (!one) throw new Error('no such proof')
        return one
      },
    })
    return { cid: cid.toString(), cids: delegations.map((one) => one.cid.toString()) }
  },
}

function read(token) {
  return Delegation.from({ bytes: bytes(token), verifierResolver })
}

for await (const line of createInterface({ input: process.stdin })) {
  const { operation, ...fields } = JSON.parse(line)
  let answer
  try {
    answer = await operations[operation](fields)
  } catch (error) {
    answer = { error: String(error.message) }
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
