// A connection to the leader of a cluster, by docs/other-languages.md.
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import grpc from '@grpc/grpc-js'
import loader from '@grpc/proto-loader'

const CALL_MS = 30_000
const RETRY_MS = 200
const CHUNK_BYTES = 1 << 20
// A lost leader is noticed, and one that is back is seen soon.
const CHANNEL = { 'grpc.keepalive_time_ms': 10_000, 'grpc.keepalive_timeout_ms': 5_000, 'grpc.max_reconnect_backoff_ms': 2_000 }

export const requestId = randomUUID

/** Why a call failed; undefined where the cluster did not say it. */
export const reasonOf = (error) => error.metadata?.get('ipfs-cluster-node-reason')[0]

export class Cluster {
  followed = [] // Addresses of leaders that refusals named.
  #clients = new Map()

  /** `endpoints`: masters, `host:port`. `ucan`: a container of delegations, or undefined. */
  constructor({ endpoints, ca, certificate, key, protos, ucan }) {
    this.endpoints = endpoints
    const files = ['content', 'health', 'state_delta', 'task_dispatch'].map((name) => `ipfs_cluster_node/v1/${name}.proto`)
    // int64 as text: a number would round it. Unset messages stay undefined, unlike with `defaults: true`.
    const definition = loader.loadSync(files, { includeDirs: [protos], keepCase: true, longs: String, enums: String, arrays: true })
    this.api = grpc.loadPackageDefinition(definition).ipfs_cluster_node.v1
    this.credentials = grpc.credentials.createSsl(readFileSync(ca), readFileSync(key), readFileSync(certificate))
    this.metadata = new grpc.Metadata()
    if (ucan) this.metadata.set('ucan', ucan)
  }

  /** A stub of the master in use. */
  stub(service) {
    const id = `${service} ${this.endpoints[0]}`
    if (!this.#clients.has(id)) this.#clients.set(id, new this.api[service](this.endpoints[0], this.credentials, CHANNEL))
    return this.#clients.get(id)
  }

  close() {
    for (const client of this.#clients.values()) client.close()
  }

  /** Repeats `call`, at the leader where there is another, until it succeeds or its time is over. */
  async follow(call) {
    const deadline = Date.now() + CALL_MS
    for (let named = false; ;) {
      try {
        return await call({ deadline })
      } catch (error) {
        const overloaded = reasonOf(error) === 'OVERLOADED'
        if (!(error.code === grpc.status.UNAVAILABLE || overloaded) || Date.now() + RETRY_MS > deadline) throw error
        const leader = error.metadata?.get('ipfs-cluster-node-leader-endpoint')[0]
        if (leader) {
          this.followed.push(leader)
          this.endpoints = [leader, ...this.endpoints.filter((each) => each !== leader)]
        } else if (!overloaded) {
          this.endpoints.push(this.endpoints.shift())
        }
        // At once only the first time: a leader that was lost is named for about a second more.
        if (!leader || named) await sleep(RETRY_MS)
        named = Boolean(leader)
      }
    }
  }

  /** One request, one answer. */
  unary(service, method, request) {
    return this.follow((options) => new Promise((resolve, reject) => {
      this.stub(service)[method](request, this.metadata, options, (error, answer) => error ? reject(error) : resolve(answer))
    }))
  }

  /** One request, many answers: all of them, if the stream ends well. */
  async stream(service, method, request) {
    return this.follow(async (options) => {
      const answers = []
      for await (const answer of this.stub(service)[method](request, this.metadata, options)) answers.push(answer)
      return answers
    })
  }

  /** Adds a file, and returns what the cluster says of it. */
  addContent(name, bytes) {
    const header = { request_id: requestId(), name, size_bytes: bytes.length }
    return this.follow((options) => new Promise((resolve, reject) => {
      const call = this.stub('ContentService').AddContent(this.metadata, options, (error, answer) => error ? reject(error) : resolve(answer))
      call.write({ header })
      // For files larger than memory: wait for `drain` whenever write() returns false.
      for (let at = 0; at < bytes.length; at += CHUNK_BYTES) call.write({ data: bytes.subarray(at, at + CHUNK_BYTES) })
      call.end()
    }))
  }
}
