// Compiles src/ with npm's solc and writes artifacts/, or with --check compares them byte by byte.
// Nothing that depends on the machine (paths, times) goes into an artifact.
import crypto from 'node:crypto'
import fs from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'

const here = import.meta.dirname
const require = createRequire(import.meta.url)
const solc = require('solc')

const contracts = ['Token', 'Ledger', 'Jury', 'BlockBeacon', 'DrandBeacon']
const settings = {
  evmVersion: 'prague',
  metadata: { bytecodeHash: 'none' },
  optimizer: { enabled: true, runs: 100 },
}

const sources = {} // source unit name -> text, filled with every file the compiler reads

function read(name) {
  const folder = name.startsWith('@') ? path.join(here, 'node_modules') : here
  sources[name] = fs.readFileSync(path.join(folder, name), 'utf8')
  return sources[name]
}

function compile(contract) {
  for (const name of Object.keys(sources)) delete sources[name]
  const unit = `src/${contract}.sol`
  const input = {
    language: 'Solidity',
    sources: { [unit]: { content: read(unit) } },
    settings: {
      ...settings,
      outputSelection: {
        [unit]: {
          [contract]: [
            'abi',
            'evm.bytecode.object',
            'evm.deployedBytecode.object',
            'evm.deployedBytecode.immutableReferences',
          ],
        },
      },
    },
  }
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: (name) => ({ contents: read(name) }) }))
  // OpenZeppelin's use of transient storage is safe, as the compiler's warning about it says itself.
  const known = (problem) =>
    problem.severity === 'warning' && problem.sourceLocation?.file.startsWith('@openzeppelin/contracts/')
  const problems = (output.errors ?? []).filter((problem) => !known(problem))
  for (const problem of problems) console.error(problem.formattedMessage)
  if (problems.length > 0) process.exit(1)

  const { abi, evm } = output.contracts[unit][contract]
  const size = evm.deployedBytecode.object.length / 2
  if (size > 24576) {
    console.error(`${contract}: ${size} bytes exceed the limit of EIP-170`)
    process.exit(1)
  }
  const immutables = Object.values(evm.deployedBytecode.immutableReferences).flat()
  const hash = (text) => crypto.createHash('sha256').update(text).digest('hex')
  return {
    contract,
    abi,
    bytecode: '0x' + evm.bytecode.object,
    deployedBytecode: '0x' + evm.deployedBytecode.object,
    immutables: immutables.sort((a, b) => a.start - b.start),
    compiler: solc.version(),
    settings,
    sources: Object.fromEntries(Object.keys(sources).sort().map((name) => [name, hash(sources[name])])),
  }
}

const check = process.argv.includes('--check')
let stale = false
for (const contract of contracts) {
  const file = path.join(here, 'artifacts', `${contract}.json`)
  const artifact = compile(contract)
  const text = JSON.stringify(artifact, null, 1) + '\n'
  const size = (artifact.deployedBytecode.length - 2) / 2
  if (!check) {
    fs.mkdirSync(path.dirname(file), { recursive: true })
    fs.writeFileSync(file, text)
    console.log(`${contract}: ${size} bytes`)
  } else if (fs.existsSync(file) && fs.readFileSync(file, 'utf8') === text) {
    console.log(`${contract}: the committed artifact is what the sources compile to`)
  } else {
    console.error(`${contract}: artifacts/${contract}.json differs from the sources; run: node compile.mjs`)
    stale = true
  }
}
process.exit(stale ? 1 : 0)
