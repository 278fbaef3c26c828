// A client in Node.js, by docs/other-languages.md: each step prints a line.
//
//   node main.mjs HOST:PORT[,HOST:PORT] ca.pem client.pem client.key PROTOS [UCAN-CONTAINER]
import { tableFromIPC } from 'apache-arrow'
import { Cluster, reasonOf, requestId } from './cluster.mjs'

const [endpoints, ca, certificate, key, protos, ucan] = process.argv.slice(2)
const cluster = new Cluster({ endpoints: endpoints.split(','), ca, certificate, key, protos, ucan })

async function main() {
  const health = await cluster.unary('HealthService', 'GetHealth', {})
  console.log('health', health.name, health.role)

  await step('echo', async () => {
    const task = await run({ task_type: 'echo', payload: Buffer.from('hello'), content_type: 'text/plain' })
    return result(task).toString()
  })

  const file = Buffer.from('n\n' + Array.from({ length: 300_000 }, (_, n) => n).join('\n'))
  const added = await step('upload', async () => {
    const answer = await cluster.addContent('numbers.csv', file)
    return answer.cid
  })
  if (added) {
    await step('sql', async () => {
      const payload = Buffer.from(JSON.stringify({ sql: 'SELECT count(*) AS rows, max(n) AS most FROM t' }))
      const inputs = [{ name: 't', cid: added, format: 'FILE_FORMAT_CSV' }]
      const task = await run({ task_type: 'data_processing', payload, content_type: 'application/json', inputs })
      return JSON.stringify(JSON.parse(result(task)).rows)
    })
    await step('download', async () => {
      const parts = await cluster.stream('ContentService', 'GetContent', { cid: added })
      return Buffer.concat(parts.map((part) => part.data)).equals(file) ? 'same' : 'different'
    })
  }

  await step('snapshot', async () => {
    const parts = await cluster.stream('StateDeltaService', 'GetSnapshot', { table: 'STATE_TABLE_NODES' })
    if (parts.length !== parts[0].part_count) throw new Error('parts are missing')
    // The schema's message, then the batches' messages: that is an Arrow IPC stream.
    const table = tableFromIPC(Buffer.concat([parts[0].schema, ...parts.map((part) => part.payload)]))
    return Array.from(table, (row) => row.name).sort().join(' ')
  })

  console.log('followed', cluster.followed[0] ?? 'nobody')
}

/** Prints what a step says, or the reason why it was refused. */
async function step(name, what) {
  try {
    const said = await what()
    console.log(name, said)
    return said
  } catch (error) {
    if (!reasonOf(error)) throw error
    console.log(name, 'refused', reasonOf(error))
  }
}

/** Submits a task, and watches it until it has ended. */
async function run(spec) {
  const { task_id } = await cluster.unary('TaskDispatchService', 'SubmitTask', { request_id: requestId(), spec })
  const changes = await cluster.stream('TaskDispatchService', 'WatchTasks', { task_ids: [task_id] })
  return changes.at(-1).tasks.at(-1)
}

function result(task) {
  if (task.status.state !== 'TASK_STATE_SUCCEEDED') throw new Error(`${task.status.state}: ${task.status.failure?.message}`)
  return task.status.result.data
}

try {
  await main()
} finally {
  cluster.close()
}
