// A real reSolve adapter on the other side of a pipe: node resolve.cjs PACKAGE OPTIONS, where the options are JSON
//
// A command is a line {"method", "args"}, its answer, in the same order, a line {"result"} or {"error": {"name", "message"}}.
// The methods are the adapter's own, but for its streams, which a line cannot carry:
//   exportEvents [options, blocks]  ->  {"text", "cursor", "isEnd", "isBufferOverflow"}, told to stop after so many blocks
//   importEvents [text, options]    ->  {"byteOffset", "savedEventsCount"}
//   exportSecrets [options]         ->  {"text"}
//   importSecrets [text, options]   ->  null
'use strict'
const readline = require('readline')
const { Readable } = require('stream')
const { pipeline } = require('stream/promises')

const [packageName, options] = process.argv.slice(2)
const createAdapter = require(packageName).default
const adapter = createAdapter({ ...JSON.parse(options), snapshotBucketSize: 1 })

const withMode = (options = {}) =>
  options.maintenanceMode === undefined
    ? options
    : { ...options, maintenanceMode: Symbol.for(`MAINTENANCE_MODE_${options.maintenanceMode}`) }

// Small blocks: reSolve's import refuses more than 512 KB at once.
function* blocks(text) {
  const bytes = Buffer.from(text)
  for (let at = 0; at < bytes.length; at += 65536) yield bytes.subarray(at, at + 65536)
}

const textOf = async (stream, stopAfter = Infinity) => {
  const parts = []
  for await (const block of stream) {
    parts.push(Buffer.from(block))
    if (parts.length === stopAfter) stream.emit('timeout')
  }
  return Buffer.concat(parts).toString()
}

const streams = {
  exportEvents: async (options, stopAfter) => {
    const stream = adapter.exportEvents(withMode(options))
    const text = await textOf(stream, stopAfter)
    const { cursor, isEnd, isBufferOverflow } = stream
    return { text, cursor, isEnd, isBufferOverflow }
  },
  importEvents: async (text, options) => {
    const stream = adapter.importEvents(withMode(options))
    await pipeline(Readable.from(blocks(text), { objectMode: false }), stream)
    return { byteOffset: stream.byteOffset, savedEventsCount: stream.savedEventsCount }
  },
  exportSecrets: async (options) => ({ text: await textOf(adapter.exportSecrets(withMode(options))) }),
  importSecrets: async (text, options) =>
    pipeline(Readable.from(blocks(text), { objectMode: false }), adapter.importSecrets(withMode(options))),
}

const secretsMethods = new Set(['getSecret', 'setSecret', 'deleteSecret'])

const methodNamed = async (name) =>
  streams[name] ?? (secretsMethods.has(name) ? await adapter.getSecretsManager() : adapter)[name]

const main = async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { method, args } = JSON.parse(line)
    let answer
    try {
      const result = await (await methodNamed(method))(...args)
      answer = { result: result ?? null }
    } catch (error) {
      answer = { error: { name: error.name, message: error.message } }
    }
    process.stdout.write(JSON.stringify(answer) + '\n')
  }
  await adapter.dispose()
}

main()
