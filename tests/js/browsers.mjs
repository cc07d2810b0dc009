// Official Socket.IO clients for the tests, many in one process: commands as JSON lines on stdin, what happens as JSON
// lines on stdout. Each client has an id; clients with the same jar share their cookies, as tabs of one browser do.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const web = createRequire(new URL('../../socket_tier/web/package.json', import.meta.url))
const { io } = web('socket.io-client')

const RECONNECTION = { reconnection: true, reconnectionDelay: 1000, reconnectionDelayMax: 5000, reconnectionAttempts: 5 }
const KINDS = {
  'js-polling-first': { transports: ['polling', 'websocket'], withCredentials: true, ...RECONNECTION },
  'js-polling': { transports: ['polling'], withCredentials: true, ...RECONNECTION },
  'js-websocket': { transports: ['websocket'], withCredentials: true, ...RECONNECTION },
}

const jars = new Map()
const clients = new Map()

const say = (message) => process.stdout.write(JSON.stringify(message) + '\n')
const jarOf = (name) => jars.get(name) ?? jars.set(name, new Map()).get(name)

function headersFrom(jar, headers) {
  const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ')
  return cookie ? { ...headers, cookie } : { ...headers }
}

function keep(jar, setCookies = []) {
  for (const line of setCookies) {
    const [, name, value] = /^([^=]+)=([^;]*)/.exec(line)
    jar.set(name, value)
  }
}

// In Node.js each connection starts with an empty cookie store: carry the cookies over, as a browser would.
function watch(id, engine, jar) {
  engine._cookieJar?.parseCookies([...jar].map(([name, value]) => `${name}=${value}`))
  engine.transport.ws?.on('upgrade', (response) => keep(jar, response.headers['set-cookie']))
  engine.on('handshake', () => {
    for (const [name, cookie] of engine._cookieJar?.cookies ?? []) jar.set(name, cookie.value)
    say({ id, is: 'transport', name: engine.transport.name })
  })
  engine.on('upgrade', (transport) => say({ id, is: 'transport', name: transport.name }))
}

const commands = {
  connect({ id, url, kind, jar: jarName, headers, cookies }) {
    const jar = jarOf(jarName)
    for (const [name, value] of Object.entries(cookies)) jar.set(name, value)
    const socket = io(url, { ...KINDS[kind], forceNew: true, extraHeaders: headersFrom(jar, headers) })
    clients.set(id, socket)
    watch(id, socket.io.engine, jar)
    socket.io.on('reconnect_attempt', () => {
      socket.io.opts.extraHeaders = headersFrom(jar, headers)
      process.nextTick(() => watch(id, socket.io.engine, jar))
    })
    socket.on('connect', () => say({ id, is: 'connected', sid: socket.id }))
    socket.on('connect_error', (error) => say({ id, is: 'refused', reason: String(error.message) }))
    socket.on('disconnect', (reason) => say({ id, is: 'disconnected', reason }))
    socket.onAny((name, ...args) => say({ id, is: 'event', name, args }))
  },
  call({ id, call, event, args }) {
    clients.get(id).emit(event, ...args, (...answer) => say({ id, is: 'ack', call, args: answer }))
  },
  emit({ id, event, args }) {
    clients.get(id).emit(event, ...args)
  },
  // The network is gone: the transport closes, the client tries again by itself.
  cut({ id }) {
    clients.get(id).io.engine.close()
  },
  close({ id }) {
    clients.get(id)?.close()
    clients.delete(id)
  },
}

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const command = JSON.parse(line)
    commands[command.do](command)
  })
  .on('close', () => process.exit(0))
say({ is: 'ready' })
