/** Where cursors are kept across restarts. Both methods may be called again after they failed. */
export interface CursorStore {
  /** The cursor last saved under the key; `null` if there is none. */
  load(key: string): Promise<string | null>;
  /** Resolves when the cursor would survive a crash of this process. It replaces the one before. */
  save(key: string, cursor: string): Promise<void>;
}
