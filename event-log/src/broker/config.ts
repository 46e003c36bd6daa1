export type Environment = Readonly<Record<string, string | undefined>>;

/** The only place of this folder that reads the process's own environment: a default for callers who give none. */
export const processEnvironment: Environment = process.env;
